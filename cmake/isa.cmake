# Instruction-set tiers of the CPU backend and the quantisers. Each file below backend/cpu/x86,
# backend/cpu/arm or quant/x86 is its own object with its own flags and is reached only through a
# choice made at run time; all other code is built for the baseline (x86-64-v2, armv8.0). What is
# built never depends on the processor that builds it.
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" FATHOM_ARCH)
if(FATHOM_ARCH MATCHES "x86_64|amd64")
  set(FATHOM_ISA_DIR x86)
  add_compile_options(-march=x86-64-v2)
elseif(FATHOM_ARCH MATCHES "aarch64|arm64")
  set(FATHOM_ISA_DIR arm)
else()
  set(FATHOM_ISA_DIR none)
endif()
set(FATHOM_ISA_FLAGS_avx2 -march=x86-64-v3)
set(FATHOM_ISA_FLAGS_avxvnni ${FATHOM_ISA_FLAGS_avx2} -mavxvnni)
set(FATHOM_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(FATHOM_ISA_FLAGS_avx512vnni ${FATHOM_ISA_FLAGS_avx512} -mavx512vnni -mavx512vbmi
    -mgfni)
set(FATHOM_ISA_FLAGS_amx ${FATHOM_ISA_FLAGS_avx512vnni} -mamx-tile -mamx-int8)
set(FATHOM_ISA_FLAGS_dotprod -march=armv8.2-a+dotprod)
set(FATHOM_ISA_FLAGS_i8mm -march=armv8.2-a+dotprod+i8mm)

# Gives every file NAME_<tier>.c the flags of its tier.
function(fathom_isa_flags)
  foreach(file ${ARGN})
    string(REGEX MATCH "_([a-z0-9]+)\\.c$" _ "${file}")
    if(DEFINED FATHOM_ISA_FLAGS_${CMAKE_MATCH_1})
      set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS
        "${FATHOM_ISA_FLAGS_${CMAKE_MATCH_1}}")
    endif()
  endforeach()
endfunction()
