/* front.c - the frontier copies that a session keeps (kv/frontier.h): a short ascending list, one
 * reference each. Knows nothing of where frontiers come from or go to. */
#include <string.h>

#include "engine/engine_int.h"

void session_drop_front(fathom_session *s, uint32_t i)
{
    frontier_drop(s->front[i]);
    s->n_front--;
    memmove(&s->front[i], &s->front[i + 1], (s->n_front - i) * sizeof s->front[0]);
}

void session_take_fronts(fathom_session *s, struct frontier *const *front, uint32_t n,
                         uint32_t keep)
{
    struct frontier *old[SESSION_FRONTIERS], *next[SESSION_FRONTIERS + 1];
    uint32_t n_old = s->n_front, count = 0;
    memcpy(old, s->front, sizeof old);
    for (uint32_t i = 0; i < n + n_old; i++) {
        struct frontier *f = i < n ? front[i] : old[i - n];
        uint32_t at = 0;
        while (at < count && next[at]->pos < f->pos) {
            at++;
        }
        if (f->pos > keep || (at < count && next[at]->pos == f->pos)) {
            continue;
        }
        memmove(&next[at + 1], &next[at], (count - at) * sizeof next[0]);
        next[at] = frontier_ref(f);
        if (++count > SESSION_FRONTIERS) {
            uint32_t pos[ARRAY_LEN(next)];
            for (uint32_t j = 0; j < count; j++) {
                pos[j] = next[j]->pos;
            }
            uint32_t out = frontier_spare(pos, count--);
            frontier_drop(next[out]);
            memmove(&next[out], &next[out + 1], (count - out) * sizeof next[0]);
        }
    }
    memcpy(s->front, next, count * sizeof next[0]);
    s->n_front = count;
    for (uint32_t i = 0; i < n_old; i++) {
        frontier_drop(old[i]);
    }
}
