#!/usr/bin/env python3
"""check_arc.py SOURCE-DIR CLANG - compiles the host files for the real target, arm64 macOS 14, with full ARC
checking and every warning an error, against the stand-in Metal and Foundation headers. The system's own
C headers do not parse for that target: the few functions that the files use are declared here. First it
shows that the check finds what it is for: a misspelled selector, a cast without a bridge, a release by hand.
An object file (Mach-O) is made too: the code generator for that target takes the files."""
import glob
import os
import subprocess
import sys
import tempfile

HEADERS = {
    "string.h": """#include <stddef.h>
void *memcpy(void *, const void *, size_t); void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t); int memcmp(const void *, const void *, size_t); size_t strlen(const char *);
int strcmp(const char *, const char *); int strncmp(const char *, const char *, size_t);
char *strchr(const char *, int); void *memchr(const void *, int, size_t);""",
    "stdlib.h": """#include <stddef.h>
void *malloc(size_t); void *calloc(size_t, size_t); void *realloc(void *, size_t); void free(void *);
char *getenv(const char *); void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
_Noreturn void abort(void);""",
    "stdio.h": """#include <stdarg.h>
#include <stddef.h>
typedef struct file_ FILE;
int snprintf(char *, size_t, const char *, ...) __attribute__((format(printf, 3, 4)));""",
    "math.h": "float fabsf(float); double fabs(double); float sqrtf(float); float rintf(float);",
    "pthread.h": "typedef struct { long x[8]; } pthread_mutex_t, pthread_cond_t; typedef void *pthread_t;",
    "sys/types.h": "#include <stddef.h>\ntypedef long ssize_t; typedef long long off_t;",
}
BROKEN = {
    "a misspelled selector": "void f(id<MTLCommandBuffer> c) { [c comit]; }",
    "a cast without a bridge": "void *f(id<MTLBuffer> b) { return (void *)b; }",
    "a release by hand": "void f(NSObject *o) { [o release]; }",
    "a wrong argument": "void f(id<MTLComputeCommandEncoder> e, id<MTLBuffer> b) { [e setComputePipelineState:b]; }",
}


def main():
    source, clang = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as work:
        for name, text in HEADERS.items():
            path = os.path.join(work, "libc", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write("#pragma once\n" + text + "\n")
        flags = ["-target", "arm64-apple-macos14.0", "-fobjc-arc", "-fblocks", "-nostdlibinc", "-ffreestanding", "-std=c17",
                 "-Wall", "-Wextra", "-Werror", "-Wno-unguarded-availability-new", "-isystem", work + "/libc",
                 "-isystem", source + "/tests/metal/standin", "-I" + source + "/src", "-I" + source + "/include",
                 "-DFATHOM_METAL", '-DFATHOM_VERSION="0"']

        def run(*more):
            return subprocess.run([clang, *flags, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        bad = 0
        for what, text in BROKEN.items():
            path = os.path.join(work, "broken.m")
            with open(path, "w", encoding="utf-8") as f:
                f.write("#import <Metal/Metal.h>\n" + text.replace("void", "extern int x; void", 1) + "\n")
            found = run("-fsyntax-only", "-Wno-error=missing-prototypes", path).returncode != 0
            print(("found" if found else "NOT FOUND") + ": " + what)
            bad += not found
        files = sorted(glob.glob(source + "/src/backend/metal/*.m"))
        for path in files:
            done = run("-c", path, "-o", os.path.join(work, "x.o"))
            print(("ok" if done.returncode == 0 else "FAILED") + ": " + os.path.basename(path))
            if done.returncode:
                print(done.stdout)
                bad += 1
        return 1 if bad or not files else 0


if __name__ == "__main__":
    sys.exit(main())
