# What the module asks of Python: its headers, cffi's generator, and a GIL.

if(NOT TARGET Python::Module)
  kafka_async_fatal("Python's headers are missing for ${Python_EXECUTABLE}"
    APT python3-dev DNF python3-devel APK python3-dev BREW python)
endif()

# The leaf calls keep the GIL and rely on it: without one they would race silently.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import sysconfig; print(int(bool(sysconfig.get_config_var('Py_GIL_DISABLED'))))"
  OUTPUT_VARIABLE free_threaded OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
if(free_threaded)
  message(FATAL_ERROR
    "kafka_async: ${Python_EXECUTABLE} is a free-threaded CPython, which is not supported. "
    "Install with an ordinary build, for example:\n    python3 -m pip install kafka-async-native")
endif()

execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import cffi.gen_src"
  RESULT_VARIABLE no_generator OUTPUT_QUIET ERROR_QUIET)
if(no_generator)
  message(FATAL_ERROR
    "kafka_async: cffi >= 2.1 is missing for ${Python_EXECUTABLE}. Install it with:\n"
    "    ${Python_EXECUTABLE} -m pip install 'cffi>=2.1'")
endif()
