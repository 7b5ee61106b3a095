# Joins FILES into OUT as one Metal source: without `#include "..."` lines, each with its name.
set(text "#include <metal_stdlib>\nusing namespace metal;\n")
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  file(READ ${file} part)
  string(REGEX REPLACE "#include \"[^\n]*\n" "\n" part "${part}")
  string(APPEND text "\n/* ==== ${name} ==== */\n${part}")
endforeach()
file(WRITE ${OUT} "${text}")
