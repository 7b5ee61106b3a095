# Joins FILES into OUT as one Metal source: without `#include "..."` lines, each with its name. No
# compile option keeps Apple's compiler from making a * b + c one operation with one rounding; the
# pragma does, and every fma of the kernels is written as one.
set(text "#include <metal_stdlib>\nusing namespace metal;\n#pragma METAL fp contract(off)\n")
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  file(READ ${file} part)
  string(REGEX REPLACE "#include \"[^\n]*\n" "\n" part "${part}")
  string(APPEND text "\n/* ==== ${name} ==== */\n${part}")
endforeach()
file(WRITE ${OUT} "${text}")
