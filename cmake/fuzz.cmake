# Fuzz targets, tests/native/fuzz_*.c: with KAFKA_ASYNC_FUZZ programs of libFuzzer, else ordinary tests that replay
# tests/native/corpus/<target>. Those that drive what librdkafka would do take its functions over by the linker's --wrap.

set(core_targets fuzz_ring)
set(kafka_targets fuzz_conf fuzz_headers fuzz_partitions fuzz_send fuzz_take fuzz_texts)
set(wrapped_fuzz_send produceva topic_new)
set(wrapped_fuzz_take consume_batch_queue consumer_poll message_destroy message_errstr message_headers message_timestamp topic_name)

add_custom_target(fuzzers)

function(kafka_async_fuzz_target name)
  add_executable(${name} tests/native/${name}.c)
  target_link_libraries(${name} PRIVATE ${ARGN} ka_flags)
  foreach(function IN LISTS wrapped_${name})
    target_link_options(${name} PRIVATE LINKER:--wrap=rd_kafka_${function})
  endforeach()
  add_dependencies(fuzzers ${name})
  if(KAFKA_ASYNC_FUZZ)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${name} PRIVATE tests/native/replay.c)
    add_test(NAME ${name} COMMAND ${name} ${CMAKE_CURRENT_SOURCE_DIR}/tests/native/corpus/${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 120)
  endif()
endfunction()

foreach(name IN LISTS core_targets)
  kafka_async_fuzz_target(${name} ka_core)
endforeach()
if(KAFKA_ASYNC_BUILD_MODULE AND NOT APPLE) # its linker has no --wrap
  foreach(name IN LISTS kafka_targets)
    kafka_async_fuzz_target(${name} ka_core ka_kafka)
  endforeach()
endif()
