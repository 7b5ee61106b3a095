# fathom_embed(TARGET SYMBOL FILE): adds to TARGET an object that holds FILE's bytes as
#   extern const unsigned char SYMBOL[]; extern const unsigned char SYMBOL_end[];
# through the assembler's .incbin, 4096-aligned so that a model in it can be used in place.
function(fathom_embed target symbol file)
  set(src ${CMAKE_CURRENT_BINARY_DIR}/embed_${symbol}.c)
  if(APPLE)
    set(sym "_${symbol}")
    set(section ".section __TEXT,__const")
  else()
    set(sym "${symbol}")
    set(section ".section .rodata")
  endif()
  file(GENERATE OUTPUT ${src} CONTENT
"__asm__(\"${section}\\n\"
        \".globl ${sym}\\n.globl ${sym}_end\\n.p2align 12\\n\"
        \"${sym}:\\n.incbin \\\"${file}\\\"\\n\"
        \"${sym}_end:\\n.byte 0\\n.text\\n\");
typedef int embed_${symbol}_unit;
")
  set_source_files_properties(${src} PROPERTIES OBJECT_DEPENDS ${file} GENERATED ON)
  target_sources(${target} PRIVATE ${src})
endfunction()
