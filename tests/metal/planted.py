"""planted.py - bugs that were planted on purpose: each must be caught by the Metal tests. A bug is one
textual change of a kernel or of a host file, and the test that has to fail because of it; run_planted.py
applies it, builds and runs. A change that no longer applies is an error, so the list stays true."""
from collections import namedtuple

# file: below src/backend/metal. program, filter: what is after test_metal_, and a cmocka filter.
# says: what the check that must find it prints (a regular expression). A sanitizer's build may stop the
# test earlier, with its own report.
# need: "" any build; "thread", "address": only a build with that sanitizer can see it.
Bug = namedtuple("Bug", "name file old new program filter says need quick")

# What the checks say: wrong numbers against `ref`; NaN, what fresh memory holds; other integers than `ref`;
# other bits than token by token, or (the long setting) in another lane order.
NUMBERS = r"ERROR: .* seed \d+: tensor \w+ row \d+ col \d+: ref \S+ cpu (?!-?nan)"
NAN = r"ERROR: .* seed \d+: tensor \w+ row \d+ col \d+: ref \S+ cpu -?nan"
INTEGERS = r"ERROR: .* seed \d+: integers, cpu against ref: "
BITS = r"ERROR: .* seed \d+: (token by token|tiers and workers): "
TG_END = r"threadgroup memory is touched behind its end|ERROR: AddressSanitizer: heap-buffer-overflow"
RACE = r"WARNING: ThreadSanitizer: data race"


def bug(name, file, old, new, where, says, need="", quick=False):
    program, _, pattern = where.partition(":")
    return Bug(name, file, old, new, program, pattern, says, need, quick)


K, H = "kernels/", ""
BUGS = [
    # ---- kernels: synchronisation ----
    bug("barrier missing in a reduction", K + "common.metal",
        "        room[c.sg] = x;\n    }\n    sync();", "        room[c.sg] = x;\n    }",
        "ops_linear:test_rms_norm", NAN, quick=True),
    bug("barrier in divergent code", K + "product.metal",
        "token_list(c)[c.t] = t0 + c.t;\n    }\n    sync();",
        "token_list(c)[c.t] = t0 + c.t;\n        sync();\n    }", "ops_linear:test_linear_hc", r"simdgroup operation is not reached by all live lanes", quick=True),
    bug("simdgroup operation in divergent code", K + "common.metal",
        "    a8_block b = a8_encode(x);", "    a8_block b = {0, 0.0f, 0};\n    if (c.lane != 5) {\n        b = a8_encode(x);\n    }",
        "ops_linear:test_rms_norm", r"simdgroup operation is not reached by all live lanes"),
    bug("simdgroup barrier missing before the rotation", K + "rows.metal",
        "    simdgroup_barrier(mem_flags::mem_threadgroup);\n    threadgroup float *x = q + o.n - 2 * n_pairs;",
        "    threadgroup float *x = q + o.n - 2 * n_pairs;", "ops_attn:test_head_finish", NUMBERS + "|" + NAN),
    bug("rows overwritten while others read them", K + "attn.metal",
        "    sync(); /* the last tile has been read */\n", "", "ops_attn:test_attn", NUMBERS),
    bug("tile multiplied before it is loaded", K + "product.metal",
        "            sync();\n            tile_multiply(c);", "            tile_multiply(c);",
        "ops_linear:test_linear_types", NAN),
    bug("counter without an atomic addition", K + "select.metal",
        "atomic_fetch_add_explicit(&hist[key >> shift & 255u], 1u, memory_order_relaxed);",
        "((threadgroup uint *)hist)[key >> shift & 255u] += 1u;", "ops_moe:test_pick", RACE, need="thread"),
    # ---- kernels: places and sizes ----
    bug("off by one row", K + "product.metal", "device const uchar *row = mat_row(c, w, mat, row0 + r);",
        "device const uchar *row = mat_row(c, w, mat, row0 + r + (r + 1 < n_rows));", "ops_linear:test_linear_types", NUMBERS,
        quick=True),
    bug("uninitialised threadgroup memory is read", K + "common.metal",
        "    for (uint i = 1; i < METAL_THREADS / 32; i++) {\n        s = s + room[i];",
        "    for (uint i = 1; i < METAL_THREADS / 32 + 1; i++) {\n        s = s + room[i];",
        "ops_linear:test_rms_norm", NAN),
    bug("slot of the ring ignored", K + "common.metal",
        "o.offset + (ulong)slot * o.row_bytes;\n}\ninline device uchar *page_at", "o.offset;\n}\ninline device uchar *page_at",
        "ops_attn:test_attn", NUMBERS),
    bug("window one entry too long", K + "common.metal",
        "pos + 1 > window ? pos + 1 - window : 0;", "pos > window ? pos - window : 0;", "ops_attn:test_attn", r"behind its end"),
    bug("threadgroup memory overrun", K + "product.metal", "        a[128 + k * 32 + tok] = s1;",
        "        a[224 + k * 32 + tok] = s1;",
        "ops_linear:test_linear_types", TG_END),
    bug("too little threadgroup memory is asked for", H + "exec.m", "tg_bytes = MAX(tg_bytes, ",
        "tg_bytes = MIN(tg_bytes + 512, ", "ops_linear:test_linear_types", TG_END),
    # ---- kernels: numbers ----
    bug("half of the lanes missing in a sum", K + "common.metal",
        "    for (ushort h = 16; h > 0; h /= 2) {\n        x = x + simd", "    for (ushort h = 8; h > 0; h /= 2) {\n        x = x + simd",
        "ops_linear:test_rms_norm", NUMBERS),
    bug("tile adds in another order than rows", K + "product.metal",
        "{0, 8, 4, 12, 2,", "{0, 4, 8, 12, 2,", "ops_linear:test_linear_types", BITS),
    bug("NaN counts as the largest", K + "select.metal", "    return is_nan(x) ? 0u : u;", "    return u;",
        "ops_attn:test_index_select", INTEGERS),
    bug("NaN lost in the 8-bit form", K + "common.metal", "bool bad = simd_any(!is_finite(x));", "bool bad = false;",
        "ops_linear:test_rms_norm", r"ERROR: .* seed \d+: A8 tensor \w+ row \d+ col \d+: ref nan "),
    bug("ties go to the higher number", K + "select.metal", "ids[i] < ids[c.t]);", "ids[i] > ids[c.t]);",
        "ops_moe:test_pick", INTEGERS),
    bug("rotation back in the wrong direction", K + "attn.metal",
        "y[2 * i] = a * cs[2 * i] + b * cs[2 * i + 1];", "y[2 * i] = a * cs[2 * i] - b * cs[2 * i + 1];",
        "ops_attn:test_attn", NUMBERS),
    bug("selftest: an op of its own is named", K + "attn.metal",
        "y[2 * i] = a * cs[2 * i] + b * cs[2 * i + 1];", "y[2 * i] = a * cs[2 * i] - b * cs[2 * i + 1];",
        "selftest:test_selftest_ops", r"ERROR: ATTN: floats"),
    bug("mask of a constrained choice ignored", K + "select.metal",
        "    if (s.masked && !(s.mask[i / 32] >> (i % 32) & 1u)) {", "    if (false) {", "ops_moe:test_pick", INTEGERS),
    # ---- host: encoding ----
    bug("no barrier between levels", H + "exec.m", "if (at->t == 0 && l->plan.d[at->i].barrier) {", "if (false) {", "ops_moe:test_moe", BITS,
        quick=True),
    bug("wrong binding index", H + "exec.m", "atIndex:METAL_BUF_SCRATCH];", "atIndex:METAL_BUF_IO];", "ops_moe:test_moe", r"nothing is bound to buffer 13"),
    bug("wrong buffer offset", H + "exec.m", "offset:o->tok_seq atIndex", "offset:o->tok atIndex", "ops_attn:test_attn", NUMBERS),
    bug("buffer offset past the end", H + "exec.m", "offset:o->angles atIndex", "offset:o->bytes + 4096 atIndex",
        "ops_attn:test_kv_row", r"setBuffer: offset \d+ in a buffer of \d+ bytes"),
    bug("wrong size of threadgroup memory", H + "exec.m", "setThreadgroupMemoryLength:tg_bytes atIndex",
        "setThreadgroupMemoryLength:tg_bytes - 8 atIndex", "ops_linear:test_rms_norm", r"setThreadgroupMemoryLength: \d+ at index 0"),
    bug("too many threads", H + "exec.m", "threadsPerThreadgroup:MTLSizeMake(METAL_THREADS, 1, 1)",
        "threadsPerThreadgroup:MTLSizeMake(2048, 1, 1)", "ops_linear:test_rms_norm", r"2048 threads in a threadgroup, the pipeline allows 1024"),
    bug("encoder not ended", H + "exec.m", "    [enc endEncoding];\n", "", "ops_linear:test_rms_norm", r"commit while an encoder is open"),
    bug("command buffer not committed", H + "exec.m", "    [cb commit];\n", "", "ops_linear:test_rms_norm", r"waitUntilCompleted before commit"),
    bug("command buffer committed twice", H + "exec.m", "    [cb commit];\n", "    [cb commit];\n    [cb commit];\n",
        "ops_linear:test_rms_norm", r"commit of a command buffer that was committed"),
    bug("results read without waiting", H + "exec.m", "            [d->pending[i] waitUntilCompleted];\n", "",
        "ops_linear:test_rms_norm", r"the GPU gave up a step", quick=True),
    # ---- host: pipelines, memory, plan ----
    bug("function constant at a wrong index", H + "pipelines.m", "atIndex:METAL_FC_KIND0 + i]", "atIndex:METAL_FC_KIND0]",
        "ops_moe:test_moe", INTEGERS),
    bug("device released too early", H + "metal.m",
        "*out = (struct device *)(__bridge_retained void *)d;", "*out = (struct device *)(__bridge void *)d;",
        "ops_linear:test_rms_norm", r"objc: .*freed object", quick=True),
    bug("small weights overlap", H + "metal.m",
        "at += (s[k].w->bytes + 255) / 256 * 256;", "at += s[k].w->bytes / 2;", "ops_linear:test_ffn_up", NUMBERS),
    bug("buffers not made resident", H + "metal.m", "[d->residency addAllocation:b];", "(void)b;",
        "ops_linear:test_rms_norm", r"is not in the queue's residency set"),
    bug("levels without barriers in the plan", H + "plan.c", "dispatch_new(b, true);", "dispatch_new(b, false);",
        "ops_moe:test_moe", BITS),
    bug("wrong argument of a task", H + "args.c", ".slots = o->slots,\n                           .ratio",
        ".slots = o->window,\n                           .ratio", "ops_attn:test_attn", NUMBERS),
    bug("grid too small", H + "step.c", "return n * div_up(op->head_finish.heads, 8);", "return n;",
        "ops_attn:test_head_finish", NUMBERS),
    # ---- what the device promises to find ----
    bug("kernel reads behind a buffer", K + "level.metal", "constant uchar *a = args + level.args[slot];",
        "constant uchar *a = args + level.args[slot] + 2048;", "ops_linear:test_rms_norm",
        r"fathom_level: .*byte \d+ of a buffer.*behind its end"),
    bug("buffer one row too short", H + "metal.m",
        "[d->mtl newBufferWithLength:bytes options", "[d->mtl newBufferWithLength:bytes > 64 ? bytes - 64 : bytes options",
        "ops_linear:test_rms_norm", r"behind its end"),
    bug("argument struct shorter than the kernel's", H + "exec.m", "[enc setBytes:&level length:sizeof level atIndex",
        "[enc setBytes:&level length:sizeof level - 4 atIndex", "ops_linear:test_rms_norm",
        r"48 bytes are bound to buffer 0, its argument has 52", quick=True),
    bug("block of arguments too short", H + "exec.m", "metal_buffer(e->dev, l->plan.args_bytes,",
        "metal_buffer(e->dev, l->plan.args_bytes / 2,", "ops_linear:test_rms_norm", r"behind its end"),
    bug("host writes behind a buffer", H + "exec.m", "l->plan.args, l->plan.args_bytes);",
        "l->plan.args, l->plan.args_bytes);\n    ((char *)l->args.contents)[l->args.length + 64] = 1;",
        "ops_linear:test_rms_norm", r"host: byte \d+ of a buffer.*behind its end"),
    bug("uninitialised buffer is read", H + "exec.m", "    memcpy(l->args.contents, l->plan.args, l->plan.args_bytes);\n", "",
        "ops_linear:test_rms_norm", r"in no buffer|behind its end"),
    bug("buffer bound after endEncoding", H + "exec.m", "    [enc endEncoding];\n    [cb commit];",
        "    [enc endEncoding];\n    [enc setBuffer:e->step offset:0 atIndex:METAL_BUF_STEP];\n    [cb commit];",
        "ops_linear:test_rms_norm", r"setBuffer after endEncoding"),
    bug("command buffer forgotten", H + "exec.m", "    id<MTLCommandBuffer> cb = [e->dev->queue commandBuffer];\n",
        "    [e->dev->queue commandBuffer];\n    id<MTLCommandBuffer> cb = [e->dev->queue commandBuffer];\n",
        "ops_linear:test_rms_norm", r"another order than the command buffers were made"),
    bug("barrier of the wrong scope", H + "exec.m",
        "if (at->t == 0 && l->plan.d[at->i].barrier) {\n            [enc memoryBarrierWithScope:MTLBarrierScopeBuffers];",
        "if (at->t == 0 && l->plan.d[at->i].barrier) {\n            [enc memoryBarrierWithScope:(MTLBarrierScope)2];",
        "ops_moe:test_moe", BITS),
    bug("no barrier between scores and choice", H + "exec.m",
        "if (encode_one(l, enc, at->i, s, at->t, n, only)) {\n                [enc memoryBarrierWithScope:MTLBarrierScopeBuffers];",
        "if (encode_one(l, enc, at->i, s, at->t, n, only)) {", "ops_attn:test_index_select", BITS),
    bug("removed from residency before its last use", H + "metal.m", "            metal_drop(d, d->view[i]);\n            d->view[i] = nil;",
        "            metal_drop(d, d->view[i]);\n            metal_drop(d, d->view[i]);\n            d->view[i] = nil;",
        "ops_linear:test_rms_norm", r"removeAllocation: it is not in the set"),
    bug("residency not committed", H + "metal.m", "        [d->residency commit];\n        [d->residency requestResidency];",
        "        [d->residency requestResidency];", "ops_linear:test_rms_norm", r"changes that were not committed"),
    bug("retained object leaks", H + "metal.m", "FBuffer *f = (__bridge_transfer FBuffer *)(void *)b;",
        "FBuffer *f = (__bridge FBuffer *)(void *)b;", "ops_linear:test_rms_norm", r"metal: \d+ objects are left"),
    bug("view not of whole pages", H + "metal.m", "length:b - a\n", "length:b - a - 256\n", "flash",
        r"newBufferWithBytesNoCopy: pointer \S+ and length \d+ must be multiples"),
    bug("language version left to the SDK", H + "pipelines.m",
        "    o.languageVersion = MTLLanguageVersion3_1; /* else the linking SDK decides */\n", "",
        "ops_linear:test_rms_norm", r"languageVersion is not set"),
    bug("kernel of another name", H + "pipelines.m", '@"fathom_level"', '@"fathom_levels"', "ops_linear:test_rms_norm",
        r"the library has no such kernel"),
]
