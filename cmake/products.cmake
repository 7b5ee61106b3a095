# What is released: libfathom (static and shared) and the program.
set(all_objects "")
foreach(f ${FATHOM_FOLDERS})
  list(APPEND all_objects $<TARGET_OBJECTS:${f}>)
endforeach()
