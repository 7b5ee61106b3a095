# What is released: libfathom (static and shared, only FATHOM_API symbols visible), the program
# with the mini model inside it, the manual page and the completions.

# ---- library: everything the public header needs ----
set(FATHOM_LIB_FOLDERS f_base f_json f_quant f_gguf f_op f_backend_host f_backend_ref f_backend_cpu f_backend_metal
  f_backend f_model f_text f_kv f_engine)
set(lib_objects "")
foreach(f ${FATHOM_LIB_FOLDERS})
  list(APPEND lib_objects $<TARGET_OBJECTS:${f}>)
endforeach()
foreach(kind static shared)
  string(TOUPPER ${kind} KIND)
  add_library(fathom_${kind} ${KIND} ${lib_objects})
  set_target_properties(fathom_${kind} PROPERTIES OUTPUT_NAME fathom LINKER_LANGUAGE C
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
    ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  target_include_directories(fathom_${kind} PUBLIC ${CMAKE_SOURCE_DIR}/include)
  target_link_libraries(fathom_${kind} PRIVATE Threads::Threads m PkgConfig::LZMA ${FATHOM_HASH_LIBS})
endforeach()

# ---- program ----
# f_cmd holds all of src/cmd but main.c; which file of src/cmd/embedded is linked decides whether
# a model is inside.
fathom_folder(cmd DEPS eval server factory engine chat backend/cpu backend/metal backend/ref kv model text op gguf quant json base
  LIBS ${FATHOM_EDIT_LIBS})
get_target_property(cmd_sources f_cmd SOURCES)
list(FILTER cmd_sources EXCLUDE REGEX "/main\\.c$")
set_target_properties(f_cmd PROPERTIES SOURCES "${cmd_sources}")

function(fathom_program target embedded)
  add_executable(${target} src/cmd/main.c src/cmd/embedded/${embedded}.c)
  target_link_libraries(${target} PRIVATE f_cmd)
  target_compile_options(${target} PRIVATE ${FATHOM_WARNINGS})
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()

# Two stages: fathom-boot, the same program without a model, converts models/mini with the recipe that
# the product is made for and the importance matrix beside it (tools/make_mini.sh renews that); fathom
# holds the result.
if(CMAKE_CROSSCOMPILING AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
  message(WARNING "Cross compiling without an emulator: the program is built without the embedded "
    "mini model, because converting it needs a program that runs here. Set CMAKE_CROSSCOMPILING_EMULATOR to have it.")
  fathom_program(fathom none)
else()
  fathom_program(fathom-boot none)
  set(mini ${CMAKE_BINARY_DIR}/mini.gguf)
  file(GLOB mini_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/models/mini/*.json
    ${CMAKE_SOURCE_DIR}/models/mini/*.safetensors ${CMAKE_SOURCE_DIR}/models/mini/imatrix.gguf)
  add_custom_command(OUTPUT ${mini}
    COMMAND fathom-boot convert ${CMAKE_SOURCE_DIR}/models/mini -o ${mini} --recipe q2
      --imatrix ${CMAKE_SOURCE_DIR}/models/mini/imatrix.gguf --imatrix-strict
    DEPENDS fathom-boot ${mini_files}
    COMMENT "Converting the mini model that the program carries")
  add_custom_target(mini-gguf DEPENDS ${mini})
  fathom_program(fathom mini)
  fathom_embed(fathom fathom_mini_gguf ${mini})
  add_dependencies(fathom mini-gguf)
endif()

# ---- install ----
file(RELATIVE_PATH FATHOM_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" FATHOM_PC_UP "${FATHOM_PC_UP}")
configure_file(${CMAKE_SOURCE_DIR}/cmake/fathom.pc.in ${CMAKE_BINARY_DIR}/fathom.pc @ONLY)
install(TARGETS fathom RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS fathom_static fathom_shared
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/fathom DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/fathom.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES docs/fathom.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES docs/completion/fathom.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
  RENAME fathom)
install(FILES docs/completion/_fathom DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES LICENSE NOTICE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
