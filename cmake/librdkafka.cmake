# Defines ka_librdkafka, a target that gives <librdkafka/rdkafka.h> and the library: the system's by
# pkg-config, or a pinned one, built here and linked statically.

set(minimum 2.0.2)
set(pinned_version 2.15.0)
set(pinned_commit 9a94e11452cdeb0a844db44ee5dd01ccbe17d3ab) # tag v2.15.0; the hash pins the content

add_library(ka_librdkafka INTERFACE)

# The system's ----------------------------------------------------------------------------------
if(NOT KAFKA_ASYNC_LIBRDKAFKA MATCHES "^(auto|system|bundled)$")
  message(FATAL_ERROR "kafka_async: KAFKA_ASYNC_LIBRDKAFKA is '${KAFKA_ASYNC_LIBRDKAFKA}'. Use one of:\n"
    "    pip install . --config-settings=cmake.define.KAFKA_ASYNC_LIBRDKAFKA=auto|system|bundled")
endif()

if(NOT KAFKA_ASYNC_LIBRDKAFKA STREQUAL bundled)
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(RDKAFKA QUIET IMPORTED_TARGET "rdkafka>=${minimum}")
  endif()
  if(RDKAFKA_FOUND)
    target_link_libraries(ka_librdkafka INTERFACE PkgConfig::RDKAFKA)
    message(STATUS "kafka_async: librdkafka ${RDKAFKA_VERSION} (system, pkg-config rdkafka >= ${minimum})")
    return()
  endif()
  if(KAFKA_ASYNC_LIBRDKAFKA STREQUAL system)
    kafka_async_fatal("no librdkafka >= ${minimum} known to pkg-config"
      APT pkg-config librdkafka-dev DNF pkgconf-pkg-config librdkafka-devel
      APK pkgconf librdkafka-dev BREW pkgconf librdkafka)
  endif()
endif()

# Bundled ---------------------------------------------------------------------------------------
if(KAFKA_ASYNC_LIBRDKAFKA STREQUAL bundled)
  set(reason "asked for")
else()
  set(reason "no system librdkafka >= ${minimum} found")
endif()

# Its CMake quietly leaves out what it does not find; TLS and every compression are promised here.
include(CheckLanguage)
check_language(CXX) # its project() insists on one, though no C++ is built
find_package(OpenSSL QUIET)
find_package(ZLIB QUIET)
find_path(ZSTD_INCLUDE_DIR zstd.h)
find_library(ZSTD_LIBRARY_RELEASE NAMES zstd zstd_static)
if(NOT CMAKE_CXX_COMPILER OR NOT OPENSSL_FOUND OR NOT ZLIB_FOUND
   OR NOT ZSTD_INCLUDE_DIR OR NOT ZSTD_LIBRARY_RELEASE)
  kafka_async_fatal("building librdkafka needs a C++ compiler and the headers of OpenSSL, zlib and zstd (${reason})"
    APT g++ libssl-dev zlib1g-dev libzstd-dev DNF gcc-c++ openssl-devel zlib-devel libzstd-devel
    APK g++ openssl-dev zlib-dev zstd-dev BREW openssl@3 zlib zstd)
endif()

if(KAFKA_ASYNC_LIBRDKAFKA_SOURCE)
  set(FETCHCONTENT_SOURCE_DIR_LIBRDKAFKA ${KAFKA_ASYNC_LIBRDKAFKA_SOURCE})
else()
  find_package(Git QUIET)
  if(NOT Git_FOUND)
    kafka_async_fatal("fetching librdkafka ${pinned_version} needs git (${reason})"
      APT git DNF git APK git BREW git)
  endif()
  # Said before the attempt, because a failed download ends in CMake's own words.
  message(STATUS "kafka_async: fetching librdkafka ${pinned_version}; without a network install the system's, or give "
    "its source: pip install . --config-settings=cmake.define.KAFKA_ASYNC_LIBRDKAFKA_SOURCE=DIR")
endif()

# SOURCE_SUBDIR names nothing, so MakeAvailable only fetches; add_subdirectory below then keeps the
# rest of librdkafka out of the build and out of the wheel.
include(FetchContent)
FetchContent_Declare(librdkafka
  GIT_REPOSITORY https://github.com/confluentinc/librdkafka.git
  GIT_TAG ${pinned_commit}
  SOURCE_SUBDIR none)
FetchContent_MakeAvailable(librdkafka)
if(NOT EXISTS ${librdkafka_SOURCE_DIR}/src/rdkafka.h)
  message(FATAL_ERROR "kafka_async: ${librdkafka_SOURCE_DIR} is not librdkafka's source. Name its top folder:\n"
    "    pip install . --config-settings=cmake.define.KAFKA_ASYNC_LIBRDKAFKA_SOURCE=DIR")
endif()

file(STRINGS ${librdkafka_SOURCE_DIR}/src/rdkafka.h version_line REGEX "define RD_KAFKA_VERSION ")
string(REGEX MATCH "0x(..)(..)(..)" _ "${version_line}")
math(EXPR major "0x${CMAKE_MATCH_1}")
math(EXPR minor "0x${CMAKE_MATCH_2}")
math(EXPR patch "0x${CMAKE_MATCH_3}")
set(version ${major}.${minor}.${patch})

set(CMAKE_POLICY_DEFAULT_CMP0077 NEW) # lets the settings below win over its option()s
set(RDKAFKA_BUILD_STATIC ON)
set(RDKAFKA_BUILD_EXAMPLES OFF)
set(RDKAFKA_BUILD_TESTS OFF)
set(ENABLE_LZ4_EXT OFF)
set(WITH_CURL OFF)
set(WITH_SSL ON)
set(WITH_ZLIB ON)
set(WITH_ZSTD ON)
# WITH_SASL would insist on Cyrus, which only Kerberos needs; PLAIN is always in.
set(WITH_SASL OFF)
set(WITH_SASL_SCRAM ON)
set(WITH_SASL_OAUTHBEARER ON)
add_subdirectory(${librdkafka_SOURCE_DIR} ${librdkafka_BINARY_DIR} EXCLUDE_FROM_ALL)

if(KAFKA_ASYNC_SANITIZE)
  # What UBSan finds there ends the program by UBSAN_OPTIONS=halt_on_error=1, so that what is upstream's can be suppressed.
  target_compile_options(rdkafka PRIVATE -O1 -fsanitize-recover=all)
  # The sanitizers do not see C11's threads begin and end; where librdkafka finds none, it takes those of pthreads.
  set(config ${librdkafka_BINARY_DIR}/generated/config.h)
  file(READ ${config} text)
  string(REPLACE "WITH_C11THREADS 1" "WITH_C11THREADS 0" text "${text}")
  file(WRITE ${config} "${text}")
endif()
if(version VERSION_LESS 2.15)
  # Its CMake leaves these undefined, which turns rd_atomic*_set into a plain store.
  target_compile_definitions(rdkafka PRIVATE HAVE_ATOMICS_32_ATOMIC=1 HAVE_ATOMICS_64_ATOMIC=1)
  # It includes curl's header even with curl off, and then uses nothing of it.
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/no-curl/curl/curl.h "")
  target_include_directories(rdkafka BEFORE PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/no-curl)
endif()

# The installed spelling of its headers, <librdkafka/rdkafka.h>.
foreach(header rdkafka.h rdkafka_mock.h)
  configure_file(${librdkafka_SOURCE_DIR}/src/${header}
                 ${CMAKE_CURRENT_BINARY_DIR}/include/librdkafka/${header} COPYONLY)
endforeach()
target_include_directories(ka_librdkafka SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR}/include)
target_link_libraries(ka_librdkafka INTERFACE rdkafka)
message(STATUS "kafka_async: librdkafka ${version} (bundled: ${reason})")
