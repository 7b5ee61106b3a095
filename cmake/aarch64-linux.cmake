# Toolchain file: Linux arm64 from another machine, with Debian's cross compiler; programs of the
# build (tests, the converter of the mini model) run through qemu's user emulation. The few arm64
# libraries come from a folder of their own, which `setup_arm64` of tools/setup.sh fills; the
# host's package set stays as it is. `cmake --preset arm64` uses this file.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

get_filename_component(arm64_libs ${CMAKE_CURRENT_LIST_DIR}/../build/arm64-libs ABSOLUTE)
set(FATHOM_ARM64_LIBS ${arm64_libs} CACHE PATH "unpacked arm64 packages (usr/ and lib/)")
set(arm64_dirs ${FATHOM_ARM64_LIBS}/usr/lib/aarch64-linux-gnu ${FATHOM_ARM64_LIBS}/lib/aarch64-linux-gnu)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FATHOM_ARM64_LIBS)

# pkg-config sees these libraries and none of the host's.
set(ENV{PKG_CONFIG_DIR} "")
set(ENV{PKG_CONFIG_LIBDIR} ${FATHOM_ARM64_LIBS}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${FATHOM_ARM64_LIBS})
set(CMAKE_FIND_ROOT_PATH ${FATHOM_ARM64_LIBS} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
# BOTH: the libraries named by pkg-config are paths that lie below the first root already
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)

# Debian keeps headers that differ between processors (OpenSSL's configuration) here; a compiler of
# the processor itself searches it unasked, so pkg-config does not name it.
set(CMAKE_C_STANDARD_INCLUDE_DIRECTORIES ${FATHOM_ARM64_LIBS}/usr/include/aarch64-linux-gnu)

# Libraries of libraries: found by the linker through rpath-link, by the programs through the path below.
list(JOIN arm64_dirs ":" arm64_path)
string(APPEND CMAKE_EXE_LINKER_FLAGS_INIT " -Wl,-rpath-link,${arm64_path}")
string(APPEND CMAKE_SHARED_LINKER_FLAGS_INIT " -Wl,-rpath-link,${arm64_path}")

find_program(FATHOM_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(FATHOM_QEMU)
  set(FATHOM_QEMU_CPU max CACHE STRING "processor that qemu plays (qemu-aarch64-static -cpu help)")
  list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FATHOM_QEMU_CPU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${FATHOM_QEMU} -cpu ${FATHOM_QEMU_CPU} -L /usr/aarch64-linux-gnu
    -E LD_LIBRARY_PATH=${arm64_path})
endif()
