# Fatal errors that end with the command that mends them.

# kafka_async_fatal(MESSAGE APT packages... DNF packages... APK packages... BREW packages...)
function(kafka_async_fatal message)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "APT;DNF;APK;BREW")
  list(JOIN arg_APT " " apt)
  list(JOIN arg_DNF " " dnf)
  list(JOIN arg_APK " " apk)
  list(JOIN arg_BREW " " brew)
  message(FATAL_ERROR "kafka_async: ${message}. Install it with one of:\n"
    "    apt-get install ${apt}\n"
    "    dnf install ${dnf}\n"
    "    apk add ${apk}\n"
    "    brew install ${brew}")
endfunction()
