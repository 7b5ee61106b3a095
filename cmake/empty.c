/* Keeps a folder target valid while the folder has no source yet. */
typedef int fathom_empty_translation_unit;
