/* catalogue.c - the op catalogue as data: for every kind its name and its operand fields with
 * access, in the order of the struct. Builder (hazards), validator, listing and the generated
 * documentation all iterate over these tables, so an operand is declared exactly once.
 * A new op: a struct and comment in op.h, a line in KINDS, a field table here, its ref version.
 */
#include "op/op.h"

#include "base/mem.h"

#define O(k, f, acc)                                           \
    {                                                          \
#f, offsetof(struct op, k.f), FIELD_OPND, ACCESS_##acc \
    }
#define ROWS(k, f, acc)                                                         \
    {#f, offsetof(struct op, k.f.codes), FIELD_OPND, ACCESS_##acc},             \
    {                                                                           \
#f ".scales", offsetof(struct op, k.f.scales), FIELD_OPND, ACCESS_##acc \
    }
#define M(k, f)                                           \
    {                                                     \
#f, offsetof(struct op, k.f), FIELD_MAT, ACCESS_R \
    }
#define V(k, f)                                           \
    {                                                     \
#f, offsetof(struct op, k.f), FIELD_VEC, ACCESS_R \
    }
#define PART(i)                                                             \
    {"w" #i, offsetof(struct op, linear.part[i].w), FIELD_MAT, ACCESS_R},   \
    {                                                                       \
        "y" #i, offsetof(struct op, linear.part[i].y), FIELD_OPND, ACCESS_W \
    }

static const struct op_field embed_fields[] = {M(embed, table), O(embed, picked, R),
                                               O(embed, x, W)};
static const struct op_field hc_mix_fields[] = {O(hc_mix, x, R), M(hc_mix, fn),
                                                O(hc_mix, mixp, W)};
static const struct op_field hc_norm_fields[] = {
    O(hc_norm, x, R),      O(hc_norm, mixp, R), V(hc_norm, scale),
    V(hc_norm, base),      V(hc_norm, norm),    O(hc_norm, xn, W),
    O(hc_norm, xn_act, W), O(hc_norm, post, W), O(hc_norm, comb, W)};
static const struct op_field hc_head_fields[] = {
    O(hc_head, x, R), O(hc_head, mixp, R), V(hc_head, scale),    V(hc_head, base),
    V(hc_head, norm), O(hc_head, hn, W),   O(hc_head, hn_act, W)};
static const struct op_field linear_fields[] = {O(linear, x, R),
                                                O(linear, x_act, R),
                                                PART(0),
                                                PART(1),
                                                PART(2),
                                                PART(3),
                                                PART(4),
                                                PART(5),
                                                PART(6),
                                                PART(7),
                                                O(linear, y_act, W)};
static const struct op_field rms_norm_fields[] = {O(rms_norm, x, R), O(rms_norm, y, W),
                                                  O(rms_norm, y_act, W), V(rms_norm, w)};
static const struct op_field kv_row_fields[] = {O(kv_row, x, R), V(kv_row, w),
                                                ROWS(kv_row, wrow, W)};
static const struct op_field compress_fields[] = {
    O(compress, x, R),     V(compress, ape),      V(compress, norm),
    O(compress, ring, RW), O(compress, bound, W), ROWS(compress, rows, W)};
static const struct op_field head_finish_fields[] = {O(head_finish, q, RW)};
static const struct op_field index_select_fields[] = {
    O(index_select, qi, R), O(index_select, iw, R), ROWS(index_select, rows, R),
    O(index_select, sel, W), O(index_select, n_sel, W)};
static const struct op_field attn_fields[] = {
    O(attn, q, R),       ROWS(attn, wrow, R), ROWS(attn, ring, R),
    ROWS(attn, rows, R), O(attn, sel, R),     O(attn, n_sel, R),
    V(attn, sink),       O(attn, o, W),       O(attn, o_act, W)};
static const struct op_field ring_store_fields[] = {ROWS(ring_store, wrow, R),
                                                    ROWS(ring_store, ring, W)};
static const struct op_field linear_hc_fields[] = {
    O(linear_hc, x, R),     O(linear_hc, x_act, R), M(linear_hc, w),
    O(linear_hc, hc_x, RW), O(linear_hc, post, R),  O(linear_hc, comb, R)};
static const struct op_field ffn_up_fields[] = {O(ffn_up, x, R), O(ffn_up, x_act, R),
                                                M(ffn_up, w1),   M(ffn_up, w3),
                                                O(ffn_up, h, W), O(ffn_up, h_act, W)};
static const struct op_field route_fields[] = {
    O(route, z, R),   V(route, bias),  V(route, table),  O(route, picked, R),
    O(route, idx, W), O(route, wt, W), O(route, off, W), O(route, pair, W)};
static const struct op_field moe_up_fields[] = {
    O(moe_up, x, R),   O(moe_up, x_act, R), M(moe_up, w1),     M(moe_up, w3),
    O(moe_up, idx, R), O(moe_up, wt, R),    O(moe_up, off, R), O(moe_up, pair, R),
    O(moe_up, h, W),   O(moe_up, h_act, W)};
static const struct op_field moe_down_fields[] = {
    O(moe_down, h, R),    O(moe_down, h_act, R), O(moe_down, hs, R),   O(moe_down, hs_act, R),
    M(moe_down, w2),      M(moe_down, shared),   O(moe_down, idx, R),  O(moe_down, off, R),
    O(moe_down, pair, R), O(moe_down, hc_x, RW), O(moe_down, post, R), O(moe_down, comb, R)};
static const struct op_field pick_fields[] = {O(pick, logits, R), O(pick, mask, R),
                                              O(pick, picks, W), O(pick, picked, W)};

#define KIND(name, table)             \
    {                                 \
        name, table, ARRAY_LEN(table) \
    }
static const struct {
    const char *name;
    const struct op_field *fields;
    size_t n;
} KINDS[OP_KIND_COUNT] = {
    [OP_EMBED] = KIND("EMBED", embed_fields),
    [OP_HC_MIX] = KIND("HC_MIX", hc_mix_fields),
    [OP_HC_NORM] = KIND("HC_NORM", hc_norm_fields),
    [OP_HC_HEAD] = KIND("HC_HEAD", hc_head_fields),
    [OP_LINEAR] = KIND("LINEAR", linear_fields),
    [OP_RMS_NORM] = KIND("RMS_NORM", rms_norm_fields),
    [OP_KV_ROW] = KIND("KV_ROW", kv_row_fields),
    [OP_COMPRESS] = KIND("COMPRESS", compress_fields),
    [OP_HEAD_FINISH] = KIND("HEAD_FINISH", head_finish_fields),
    [OP_INDEX_SELECT] = KIND("INDEX_SELECT", index_select_fields),
    [OP_ATTN] = KIND("ATTN", attn_fields),
    [OP_RING_STORE] = KIND("RING_STORE", ring_store_fields),
    [OP_LINEAR_HC] = KIND("LINEAR_HC", linear_hc_fields),
    [OP_FFN_UP] = KIND("FFN_UP", ffn_up_fields),
    [OP_ROUTE] = KIND("ROUTE", route_fields),
    [OP_MOE_UP] = KIND("MOE_UP", moe_up_fields),
    [OP_MOE_DOWN] = KIND("MOE_DOWN", moe_down_fields),
    [OP_PICK] = KIND("PICK", pick_fields),
};

const char *op_name(enum op_kind kind)
{
    return (unsigned)kind < OP_KIND_COUNT ? KINDS[kind].name : "?";
}

const struct op_field *op_fields(enum op_kind kind, size_t *n)
{
    if ((unsigned)kind >= OP_KIND_COUNT) {
        *n = 0;
        return NULL;
    }
    *n = KINDS[kind].n;
    return KINDS[kind].fields;
}
