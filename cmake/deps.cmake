# Third-party libraries (docs/dependencies.md). Each is used by one source file.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET liblzma)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)
if(APPLE)
  find_library(EDIT_LIBRARY edit REQUIRED) # part of the system
  set(FATHOM_EDIT_LIBS ${EDIT_LIBRARY})
else()
  pkg_check_modules(EDIT REQUIRED IMPORTED_TARGET libedit)
  set(FATHOM_EDIT_LIBS PkgConfig::EDIT)
endif()
