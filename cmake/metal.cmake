# The Metal backend. Its planning (C) is built everywhere; device code and kernels on macOS, and on
# Linux in a test build over stand-in frameworks and an emulated GPU (tests/metal).
if(APPLE OR FATHOM_METAL_STANDIN)
  set(FATHOM_METAL ON)
  if(FATHOM_METAL_STANDIN) # one compiler for all: the oldest that can translate the kernels
    find_program(FATHOM_CLANG19 clang-19 REQUIRED)
    find_program(FATHOM_CLANGXX19 clang++-19 REQUIRED)
    set(CMAKE_OBJC_COMPILER ${FATHOM_CLANG19})
    set(CMAKE_CXX_COMPILER ${FATHOM_CLANGXX19})
  endif()
  enable_language(OBJC)
endif()

set(FATHOM_METAL_KERNELS tables common quant product hc linear rows attn select moe level)

# fathom_metal_source(FILE): joins step-independent headers and kernels into one source.
function(fathom_metal_source out)
  set(dir ${CMAKE_SOURCE_DIR}/src/backend/metal)
  set(files ${dir}/args.h)
  foreach(k ${FATHOM_METAL_KERNELS})
    list(APPEND files ${dir}/kernels/${k}.metal)
  endforeach()
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} "-DFILES=${files}" -DOUT=${out} -P ${CMAKE_SOURCE_DIR}/cmake/metal_source.cmake
    DEPENDS ${files} ${CMAKE_SOURCE_DIR}/cmake/metal_source.cmake
    COMMENT "Joining the Metal kernels" VERBATIM)
endfunction()

function(fathom_metal target)
  if(NOT FATHOM_METAL)
    return()
  endif()
  set(source ${CMAKE_BINARY_DIR}/kernels.metal)
  fathom_metal_source(${source})
  add_custom_target(metal-source DEPENDS ${source})
  file(GLOB m CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/metal/*.m)
  target_sources(${target} PRIVATE ${m})
  set_source_files_properties(${m} PROPERTIES COMPILE_OPTIONS "-fobjc-arc;-fblocks")
  fathom_embed(${target} fathom_metal_source ${source})
  add_dependencies(${target} metal-source)
  add_compile_definitions(FATHOM_METAL)
  target_compile_definitions(${target} PUBLIC FATHOM_METAL)
  if(APPLE)
    target_link_libraries(${target} PUBLIC "-framework Foundation" "-framework Metal")
  else()
    set_source_files_properties(${m} PROPERTIES COMPILE_OPTIONS
      "-fobjc-runtime=objfw;-fobjc-arc;-fblocks;-Wno-unguarded-availability-new")
    add_subdirectory(${CMAKE_SOURCE_DIR}/tests/metal)
    target_link_libraries(${target} PUBLIC metal_standin)
  endif()
endfunction()
