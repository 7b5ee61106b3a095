/* level.metal - the one kernel: a level of the recorded program. Which kinds of task its slots hold is
 * known when the pipeline is made (function constants), so a pipeline contains the code of its own
 * level and nothing else. */

constant uint FC_KIND0 [[function_constant(0)]];
constant uint FC_KIND1 [[function_constant(1)]];
constant uint FC_KIND2 [[function_constant(2)]];
constant uint FC_KIND3 [[function_constant(3)]];
constant uint FC_KIND4 [[function_constant(4)]];

inline void run_task(thread const ctx &c, uint kind, constant uchar *a)
{
    switch (kind) {
    case METAL_EMBED: task_embed(c, *(constant metal_embed *)a); break;
    case METAL_HC_MIX: task_hc_mix(c, *(constant metal_hc_mix *)a); break;
    case METAL_HC_NORM: task_hc_norm(c, *(constant metal_hc_norm *)a); break;
    case METAL_HC_HEAD: task_hc_norm(c, *(constant metal_hc_norm *)a); break;
    case METAL_LINEAR: task_linear(c, *(constant metal_linear *)a); break;
    case METAL_RMS_NORM: task_rms_norm(c, *(constant metal_rms_norm *)a); break;
    case METAL_KV_ROW: task_kv_row(c, *(constant metal_kv_row *)a); break;
    case METAL_COMPRESS: task_compress(c, *(constant metal_compress *)a); break;
    case METAL_COMPRESS_ROWS: task_compress_rows(c, *(constant metal_compress *)a); break;
    case METAL_COMPRESS_RING: task_compress_ring(c, *(constant metal_compress *)a); break;
    case METAL_HEAD_FINISH: task_head_finish(c, *(constant metal_head_finish *)a); break;
    case METAL_INDEX_SCORE: task_index_score(c, *(constant metal_index *)a); break;
    case METAL_INDEX_TOP: task_index_top(c, *(constant metal_index *)a); break;
    case METAL_ATTN: task_attn(c, *(constant metal_attn *)a); break;
    case METAL_ATTN_MERGE: task_attn_merge(c, *(constant metal_attn *)a); break;
    case METAL_RING_STORE: task_ring_store(c, *(constant metal_ring_store *)a); break;
    case METAL_LINEAR_HC: task_linear_hc(c, *(constant metal_linear_hc *)a); break;
    case METAL_FFN_UP: task_ffn_up(c, *(constant metal_ffn_up *)a); break;
    case METAL_ROUTE: task_route(c, *(constant metal_route *)a); break;
    case METAL_ROUTE_TOKEN: task_route_token(c, *(constant metal_route *)a); break;
    case METAL_ROUTE_GROUP: route_group(c, *(constant metal_route *)a); break;
    case METAL_MOE_UP: task_moe_up(c, *(constant metal_moe_up *)a); break;
    case METAL_MOE_UP_EXPERT: task_moe_up_expert(c, *(constant metal_moe_up *)a); break;
    case METAL_MOE_DOWN: task_moe_down(c, *(constant metal_moe_down *)a); break;
    case METAL_MOE_DOWN_EXPERT: task_moe_down_expert(c, *(constant metal_moe_down *)a); break;
    case METAL_MOE_DOWN_SUM: task_moe_down_sum(c, *(constant metal_moe_down *)a); break;
    case METAL_PICK: task_pick(c, *(constant metal_pick *)a); break;
    default: break;
    }
}

kernel void fathom_level(
    constant metal_level &level [[buffer(0)]], constant uchar *args [[buffer(1)]],
    constant metal_step *step [[buffer(2)]], constant metal_seq *seq [[buffer(3)]],
    constant uint *tok [[buffer(4)]], constant uint *tok_seq [[buffer(5)]],
    constant uint *pages [[buffer(6)]], constant uint *out_rows [[buffer(7)]],
    device const float *angles [[buffer(8)]], device uchar *arena [[buffer(9)]],
    device uchar *state [[buffer(10)]], device uchar *page [[buffer(11)]],
    device uchar *io [[buffer(12)]], device uchar *scratch [[buffer(13)]],
    device const uchar *v0 [[buffer(14)]], device const uchar *v1 [[buffer(15)]],
    device const uchar *v2 [[buffer(16)]], device const uchar *v3 [[buffer(17)]],
    device const uchar *v4 [[buffer(18)]], device const uchar *v5 [[buffer(19)]],
    device const uchar *v6 [[buffer(20)]], device const uchar *v7 [[buffer(21)]],
    device const uchar *v8 [[buffer(22)]], device const uchar *v9 [[buffer(23)]],
    device const uchar *v10 [[buffer(24)]], device const uchar *v11 [[buffer(25)]],
    threadgroup float *tg [[threadgroup(0)]], uint group [[threadgroup_position_in_grid]],
    uint t [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint sg [[simdgroup_index_in_threadgroup]])
{
    ctx c;
    c.step = step;
    c.seq = seq;
    c.tok = tok;
    c.tok_seq = tok_seq;
    c.pages = pages;
    c.out_rows = out_rows;
    c.angles = angles;
    c.arena = arena;
    c.state = state;
    c.page = page;
    c.io = io;
    c.scratch = scratch;
    c.view[0] = v0;
    c.view[1] = v1;
    c.view[2] = v2;
    c.view[3] = v3;
    c.view[4] = v4;
    c.view[5] = v5;
    c.view[6] = v6;
    c.view[7] = v7;
    c.view[8] = v8;
    c.view[9] = v9;
    c.view[10] = v10;
    c.view[11] = v11;
    c.tg = tg;
    c.t = t;
    c.lane = lane;
    c.sg = sg;
    uint slot = 0;
    while (slot + 1 < METAL_SLOTS && group >= level.first[slot + 1]) {
        slot++;
    }
    c.group = group - level.first[slot];
    c.tok0 = level.tok0;
    constant uchar *a = args + level.args[slot];
    /* one branch a slot, each with a kind that is constant in this pipeline */
    if (slot == 0) {
        run_task(c, FC_KIND0, a);
    } else if (slot == 1 && FC_KIND1 != METAL_NONE) {
        run_task(c, FC_KIND1, a);
    } else if (slot == 2 && FC_KIND2 != METAL_NONE) {
        run_task(c, FC_KIND2, a);
    } else if (slot == 3 && FC_KIND3 != METAL_NONE) {
        run_task(c, FC_KIND3, a);
    } else if (slot == 4 && FC_KIND4 != METAL_NONE) {
        run_task(c, FC_KIND4, a);
    }
}
