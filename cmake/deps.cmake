# Third-party libraries (docs/dependencies.md). Each is used by one source file.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET liblzma)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
set(FATHOM_HASH_LIBS "")
if(NOT APPLE) # macOS has SHA in its system library
  pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
  set(FATHOM_HASH_LIBS PkgConfig::CRYPTO)
  set(FATHOM_PC_CRYPTO ", libcrypto") # for fathom.pc
endif()
# libmicrohttpd's own pkg-config file wants the headers of GnuTLS, which nothing here uses.
find_path(MICROHTTPD_INCLUDE microhttpd.h REQUIRED)
find_library(MICROHTTPD_LIBRARY microhttpd REQUIRED)
add_library(microhttpd INTERFACE)
target_include_directories(microhttpd SYSTEM INTERFACE ${MICROHTTPD_INCLUDE})
target_link_libraries(microhttpd INTERFACE ${MICROHTTPD_LIBRARY})
if(APPLE)
  find_library(EDIT_LIBRARY edit REQUIRED) # part of the system
  set(FATHOM_EDIT_LIBS ${EDIT_LIBRARY})
else()
  pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)
  set(FATHOM_EDIT_LIBS PkgConfig::EDIT)
endif()
