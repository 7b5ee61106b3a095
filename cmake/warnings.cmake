# Warning flags of the project. FATHOM_WERROR turns them into errors (test.sh does).
option(FATHOM_WERROR "treat warnings as errors" OFF)
set(FATHOM_WARNINGS -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla)
if(FATHOM_WERROR)
  list(APPEND FATHOM_WARNINGS -Werror)
endif()
# Folders that parse outside bytes or hold offsets also refuse implicit narrowing.
set(FATHOM_STRICT_FOLDERS base json gguf kv server)
