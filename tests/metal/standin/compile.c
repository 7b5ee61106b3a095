/* compile.c - see compile.h. The source is written to the cache folder under a hash of itself, of
 * the tools and of the options; translate.py makes C++ of it and clang a shared object. Paths and
 * flags come from the build (STANDIN_*). Processes that build the same library at once each write
 * their own temporary file and rename it. */
#include "compile.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "emu.h"
#include "standin.h"

static char cache[1024] = STANDIN_CACHE;
static char why_text[8192];

void standin_set_cache(const char *dir)
{
    snprintf(cache, sizeof cache, "%s", dir);
}

static uint64_t hash(uint64_t h, const char *s)
{
    for (; *s; s++) {
        h = (h ^ (unsigned char)*s) * 0x100000001B3u;
    }
    return h;
}

static bool write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    if (!f) {
        return false;
    }
    bool ok = fputs(text, f) >= 0;
    return fclose(f) == 0 && ok;
}

/* Runs a shell command; what it prints becomes the reason if it fails. */
static bool run(const char *command)
{
    FILE *p = popen(command, "r");
    if (!p) {
        snprintf(why_text, sizeof why_text, "cannot run: %s", command);
        return false;
    }
    size_t n = fread(why_text, 1, sizeof why_text - 1, p);
    why_text[n] = 0;
    return pclose(p) == 0;
}

/* Tests of the tests (run_planted.py): a changed source instead of the embedded one. */
static char *replaced_source(void)
{
    const char *path = getenv("FATHOM_TEST_KERNELS");
    FILE *f = path ? fopen(path, "rb") : NULL;
    if (!f) {
        return NULL;
    }
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *text = calloc(n + 1, 1);
    n = text ? fread(text, 1, n, f) : 0;
    fclose(f);
    return text;
}

static struct emu_library *compile(const char *source, bool fast_math, const char **why)
{
    char base[1200], path[1400], command[6000];
    uint64_t h = hash(0xCBF29CE484222325u, STANDIN_TOOLS_DIGEST STANDIN_FLAGS);
    h = hash(h, fast_math ? "fast" : "strict");
    h = hash(h, source);
    mkdir(cache, 0777);
    snprintf(base, sizeof base, "%s/%016llx", cache, (unsigned long long)h);
    snprintf(path, sizeof path, "%s.so", base);
    *why = why_text;
    if (access(path, R_OK) != 0) {
        long pid = (long)getpid();
        snprintf(path, sizeof path, "%s.%ld.metal", base, pid);
        if (!write_file(path, source)) {
            snprintf(why_text, sizeof why_text, "cannot write %s", path);
            return NULL;
        }
        snprintf(
            command, sizeof command,
            "exec 2>&1; set -e; '%s' '%s/translate.py' '%s' > '%s.%ld.cpp'; '%s' -std=c++17 -fPIC "
            "-shared -w -Xclang -ffloat16-excess-precision=none "
            "-Xclang -cl-single-precision-constant "
            "-ffp-contract=off %s %s -isystem '%s/shim' -I'%s/emu' '%s.%ld.cpp' -o '%s.%ld.so'; "
            "mv '%s.%ld.metal' '%s.metal'; rm '%s.%ld.cpp'; mv '%s.%ld.so' '%s.so'",
            STANDIN_PYTHON, STANDIN_DIR, path, base, pid, STANDIN_CXX,
            fast_math ? "-ffast-math" : "", STANDIN_FLAGS, STANDIN_DIR, STANDIN_DIR, base, pid,
            base, pid, base, pid, base, base, pid, base, pid, base);
        if (!run(command)) {
            return NULL;
        }
        snprintf(path, sizeof path, "%s.so", base);
    }
    return emu_load(path, why);
}

struct emu_library *standin_compile(const char *source, bool fast_math, const char **why)
{
    char *other = replaced_source();
    struct emu_library *lib = compile(other ? other : source, fast_math, why);
    free(other);
    return lib;
}
