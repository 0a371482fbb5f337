# Model-checked programs, tests/native/model_*.c: our C compiled with -fsanitize=thread, whose hooks model.c has in place of
# ThreadSanitizer. And mutants: copies of our C with one line changed for the worse, which must be seen.

set(model_ring_code ka_ring.c)
set(model_wake_code ka_ring.c ka_wake.c)

add_library(ka_model OBJECT tests/native/model.c)
target_compile_options(ka_model PRIVATE -U_FORTIFY_SOURCE) # its check of longjmp() knows one stack
target_link_libraries(ka_model PRIVATE ka_flags)

# kafka_async_model(NAME PROGRAM FOLDER [definitions]...): the program on our C in the folder.
function(kafka_async_model name program folder)
  list(TRANSFORM ${program}_code PREPEND ${folder}/ OUTPUT_VARIABLE code)
  add_library(${name}_checked OBJECT tests/native/${program}.c ${code})
  target_include_directories(${name}_checked BEFORE PRIVATE ${folder})
  target_compile_options(${name}_checked PRIVATE -fsanitize=thread $<$<C_COMPILER_ID:GNU>:-Wno-tsan>
    -include ${CMAKE_CURRENT_SOURCE_DIR}/tests/native/model_calls.h)
  target_compile_definitions(${name}_checked PRIVATE ${ARGN})
  target_link_libraries(${name}_checked PRIVATE ka_flags)
  add_executable(${name} $<TARGET_OBJECTS:${name}_checked> $<TARGET_OBJECTS:ka_model>)
  target_link_libraries(${name} PRIVATE Threads::Threads)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()

# kafka_async_mutant(NAME PROGRAM FILE FROM TO): the same with FROM, which must stand once in the file, replaced.
function(kafka_async_mutant name program file from to)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name})
  file(COPY csrc/ DESTINATION ${folder})
  file(READ csrc/${file} text)
  string(REPLACE "${from}" "${to}" mutated "${text}")
  string(LENGTH "${from}" from_length)
  string(LENGTH "${to}" to_length)
  string(LENGTH "${text}" length)
  string(LENGTH "${mutated}" mutated_length)
  math(EXPR wanted "${length} - ${from_length} + ${to_length}")
  string(FIND "${text}" "${from}" at)
  if(at EQUAL -1 OR NOT mutated_length EQUAL wanted)
    message(FATAL_ERROR "kafka_async: mutant ${name}: csrc/${file} has not just one \"${from}\". "
      "Correct cmake/model.cmake")
  endif()
  file(WRITE ${folder}/${file} "${mutated}")
  kafka_async_model(${name} ${program} ${folder} ${ARGN})
  set_tests_properties(${name} PROPERTIES PASS_REGULAR_EXPRESSION "violation, thread")
endfunction()

set(csrc ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
kafka_async_model(model_ring model_ring ${csrc})
kafka_async_model(model_wake model_wake ${csrc})
kafka_async_model(model_wake_portable model_wake ${csrc} KA_NO_FUTEX)

# Each order and each step that the ring's and the wake-up's comments give a reason for.
kafka_async_model(mutant_commit_first model_ring ${csrc} MODEL_COMMIT_FIRST)
set_tests_properties(mutant_commit_first PROPERTIES PASS_REGULAR_EXPRESSION "violation, thread")
kafka_async_mutant(mutant_commit_relaxed model_ring ka_ring.c
  "kai_ring_entry_size(len),\n                          memory_order_release" "kai_ring_entry_size(len), memory_order_relaxed")
kafka_async_mutant(mutant_next_relaxed model_ring ka_ring.c
  "size = atomic_load_explicit(&h->size, memory_order_acquire)" "size = atomic_load_explicit(&h->size, memory_order_relaxed)")
kafka_async_mutant(mutant_gap_relaxed model_ring ka_ring.c "&gap->size, skip, memory_order_release" "&gap->size, skip, memory_order_relaxed")
kafka_async_mutant(mutant_head_relaxed model_ring ka_ring.c "&ring->head, pos, memory_order_release" "&ring->head, pos, memory_order_relaxed")
kafka_async_mutant(mutant_fits_relaxed model_ring ka_ring.c "(&ring->head, memory_order_acquire)" "(&ring->head, memory_order_relaxed)")
kafka_async_mutant(mutant_seen_relaxed model_ring ka_ring.c
  "if (end - atomic_load_explicit(&ring->head_seen, memory_order_acquire)" "if (end - atomic_load_explicit(&ring->head_seen, memory_order_relaxed)")
kafka_async_mutant(mutant_see_relaxed model_ring ka_ring.c
  "memory_order_acq_rel, memory_order_acquire))\n        continue" "memory_order_relaxed, memory_order_relaxed))\n        continue")
kafka_async_mutant(mutant_over_relaxed model_ring ka_ring.c
  "memory_order_release, memory_order_relaxed))\n            pos = lap" "memory_order_relaxed, memory_order_relaxed))\n            pos = lap")
kafka_async_mutant(mutant_reserve_relaxed model_ring ka_ring.c
  "memory_order_acq_rel,\n                                                         memory_order_acquire))" "memory_order_relaxed, memory_order_relaxed))")
kafka_async_mutant(mutant_no_bit model_ring ka_ring.c "lap | STARTED_OVER," "lap,")
kafka_async_mutant(mutant_no_zeros model_ring ka_ring.c "clear(ring, offset, offset + first);" "")
kafka_async_mutant(mutant_late_zeros model_ring ka_ring.c "clear(ring, 0, len - first);" "")
kafka_async_mutant(mutant_no_notify_fence model_wake ka_wake.h "    atomic_thread_fence(memory_order_seq_cst);\n    if" "    if")
kafka_async_mutant(mutant_no_prepare_fence model_wake ka_wake.c "atomic_thread_fence(memory_order_seq_cst); /* partner" "/* partner")
kafka_async_mutant(mutant_no_sequence model_wake ka_wake.c
  "    atomic_fetch_add_explicit(&wake->sequence, 1, memory_order_relaxed);\n    syscall" "    syscall")
