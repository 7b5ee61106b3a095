/* runtime.c - as much of an Objective-C runtime as ARC code compiled by clang with
 * -fobjc-runtime=objfw needs: classes, message lookup, reference counts, autorelease pools,
 * blocks. Stricter than a real one: an unknown selector, a message to a freed object and a release
 * too many end the program with the class and the selector; live objects are counted, so that
 * tests find leaks.
 *
 * Class and method structures are those that clang emits for this runtime (the GNU layout). Classes
 * are registered before main and resolved when first used. A selector is found by its name.
 * Threads: counts are atomic; pools are per thread; classes are resolved under a lock. */
#include "runtime.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct object *id;
typedef struct selector {
    const char *name, *types;
} * SEL;
typedef void (*IMP)(void);

struct method {
    const char *name, *types;
    IMP imp;
};
struct method_list {
    struct method_list *next;
    int n;
    struct method m[];
};
struct ivar_list {
    int n;
    struct {
        const char *name, *type;
        int offset;
    } v[];
};
struct class
{
    struct class *isa;
    union {
        const char *super_name; /* until it is resolved */
        struct class *super;
    };
    const char *name;
    long version;
    unsigned long info;
    long instance_size; /* negative: own variables only, until it is resolved */
    struct ivar_list *ivars;
    struct method_list *methods;
    void *cache, *subclasses, *sibling, *protocols, *extra;
    long abi;
    int **ivar_offsets;
    void *properties;
    long strong_map, weak_map;
};
struct object {
    struct class *isa;
};
struct symtab {
    unsigned long n_selectors;
    struct selector *selectors;
    unsigned short n_classes, n_categories;
    void *defs[];
};
struct module {
    unsigned long version, size;
    const char *name;
    struct symtab *symtab;
};

/* What a freed object is filled with: its class, and its variables. */
#define FREED 0xF3EEF3EEF3EEF3EEu
#define FREED_WORD 0xDDDDDDDDDDDDDDDDu

enum { CLASS_RESOLVED = 1 << 16, MAX_CLASSES = 256 };

static struct class *classes[MAX_CLASSES];
static size_t n_classes;
static pthread_mutex_t class_lock;
static atomic_long live;

static _Noreturn void die(const char *what, const char *class_name, const char *selector)
{
    fprintf(stderr, "objc: %s: %s %s\n", what, class_name, selector);
    abort();
}

/* ---- classes ---- */

void __objc_exec_class(struct module *m)
{
    for (unsigned i = 0; i < m->symtab->n_classes; i++) {
        if (n_classes == MAX_CLASSES) {
            die("too many classes", m->name, "");
        }
        classes[n_classes++] = m->symtab->defs[i];
    }
}

static struct class *class_named(const char *name)
{
    for (size_t i = 0; i < n_classes; i++) {
        if (strcmp(classes[i]->name, name) == 0) {
            return classes[i];
        }
    }
    die("no such class", name, "");
}

/* Superclass by pointer, variables behind those of the superclass. */
static void resolve(struct class *c)
{
    if (c->info & CLASS_RESOLVED) {
        return;
    }
    struct class *super = c->super_name ? class_named(c->super_name) : NULL;
    c->info |= CLASS_RESOLVED;
    c->super = super;
    if (super) {
        resolve(super);
        c->isa->super = super->isa;
    } else {
        c->isa->super = c; /* class messages of a root fall back to its instance methods */
    }
    c->isa->isa = c->isa;
    if (c->instance_size <= 0) {
        long base = super ? (super->instance_size + 7) & ~7L : 0;
        c->instance_size = base - c->instance_size;
        for (int i = 0; c->ivars && i < c->ivars->n; i++) {
            c->ivars->v[i].offset += (int)base;
            *c->ivar_offsets[i] = c->ivars->v[i].offset;
        }
    }
}

__attribute__((constructor(101))) static void lock_init(void)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&class_lock, &a);
}

static void resolve_all(void)
{
    static atomic_bool done;
    if (atomic_load_explicit(&done, memory_order_acquire)) {
        return;
    }
    pthread_mutex_lock(&class_lock);
    for (size_t i = 0; i < n_classes; i++) {
        resolve(classes[i]);
    }
    pthread_mutex_unlock(&class_lock);
    atomic_store_explicit(&done, true, memory_order_release);
}

static IMP find(struct class *c, const char *selector)
{
    for (; c; c = c->super) {
        for (struct method_list *l = c->methods; l; l = l->next) {
            for (int i = 0; i < l->n; i++) {
                if (strcmp(l->m[i].name, selector) == 0) {
                    return l->m[i].imp;
                }
            }
        }
    }
    return NULL;
}

/* ---- objects: the count lies before the object ---- */

struct header {
    atomic_long count;
    const char *freed; /* its class, once it is freed */
};

static struct header *header_of(id o)
{
    return (struct header *)o - 1;
}

static const char *freed_class(id o)
{
    return header_of(o)->freed;
}

IMP objc_msg_lookup(id object, SEL s)
{
    resolve_all();
    if (!object) {
        return (IMP)(void *)nil_method; /* a message to nil gives nil */
    }
    if ((uintptr_t)object == FREED_WORD) {
        die("message to a variable of a freed object", "?", s->name);
    }
    if (object->isa == (void *)FREED) {
        die("message to a freed object of class", freed_class(object), s->name);
    }
    IMP f = find(object->isa, s->name);
    if (!f) {
        die("unrecognised selector", object->isa->name, s->name);
    }
    return f;
}

struct super {
    id object;
    struct class *class;
};
IMP objc_msg_lookup_super(struct super *s, SEL sel)
{
    resolve_all();
    IMP f = find(s->class, sel->name);
    if (!f) {
        die("unrecognised selector of super", s->class->name, sel->name);
    }
    return f;
}

id objc_lookup_class(const char *name)
{
    resolve_all();
    return (id)class_named(name);
}
id objc_get_class(const char *name)
{
    return objc_lookup_class(name);
}

void *nil_method(void)
{
    return NULL;
}

static bool counted(id o) /* constant strings, blocks on the stack and classes are not */
{
    if ((uintptr_t)o == FREED_WORD) {
        die("a variable of a freed object is retained or released", "?", "");
    }
    if (o && o->isa == (void *)FREED) {
        die("a freed object is retained or released", freed_class(o), "");
    }
    return o && o->isa->instance_size > 0 && !(o->isa->info & 2) &&
           strcmp(o->isa->name, "NSConstantString") != 0;
}

void *standin_object_new(void *class)
{
    struct class *c = class;
    resolve_all();
    struct header *h = calloc(1, sizeof *h + (size_t)c->instance_size);
    id o = (id)(h + 1);
    atomic_init(&h->count, 1);
    o->isa = c;
    atomic_fetch_add(&live, 1);
    return o;
}

long standin_live_objects(void)
{
    return atomic_load(&live);
}

/* A freed object keeps its memory for a while, so that whoever still uses it is found; sanitizers
 * have their own way to do so. */
static void free_late(struct header *h)
{
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    free(h);
#else
    enum { KEPT = 4096 };
    static _Atomic(struct header *) kept[KEPT];
    static atomic_uint next;
    free(atomic_exchange(&kept[atomic_fetch_add(&next, 1) % KEPT], h));
#endif
}

static void destroy(id o)
{
    ((void (*)(id, SEL))find(o->isa, "dealloc"))(o, NULL); /* calls those of its superclasses */
    for (struct class *c = o->isa; c; c = c->super) {
        for (struct method_list *l = c->methods; l; l = l->next) {
            for (int i = 0; i < l->n; i++) {
                if (strcmp(l->m[i].name, ".cxx_destruct") == 0) {
                    ((void (*)(id, SEL))l->m[i].imp)(o, NULL);
                }
            }
        }
    }
    struct class *c = o->isa;
    header_of(o)->freed = c->name;
    memset(o, 0xDD, (size_t)c->instance_size);
    o->isa = (void *)FREED;
    atomic_fetch_sub(&live, 1);
    free_late(header_of(o));
}

/* A block on the heap begins with its class, as an object does. */
static bool is_block(id o)
{
    return o && ((void *)o->isa == (void *)_NSConcreteStackBlock ||
                 (void *)o->isa == (void *)_NSConcreteMallocBlock ||
                 (void *)o->isa == (void *)_NSConcreteGlobalBlock);
}

id objc_retain(id o)
{
    if (is_block(o)) {
        return (id)_Block_copy(o);
    }
    if (counted(o)) {
        atomic_fetch_add_explicit(&header_of(o)->count, 1, memory_order_relaxed);
    }
    return o;
}

void objc_release(id o)
{
    if (is_block(o)) {
        _Block_release(o);
        return;
    }
    if (!counted(o)) {
        return;
    }
    long before = atomic_fetch_sub_explicit(&header_of(o)->count, 1, memory_order_acq_rel);
    if (before <= 0) {
        die("released too often", o->isa->name, "");
    }
    if (before == 1) {
        destroy(o);
    }
}

id objc_retainBlock(id o)
{
    return (id)_Block_copy(o);
}

void objc_storeStrong(id *at, id o)
{
    id old = *at;
    objc_retain(o);
    *at = o;
    objc_release(old);
}

/* ---- autorelease pools ---- */

static _Thread_local struct {
    id *at;
    size_t n, cap;
} pool;

void *objc_autoreleasePoolPush(void)
{
    return (void *)(pool.n + 1);
}

void objc_autoreleasePoolPop(void *mark)
{
    size_t n = (size_t)mark - 1;
    while (pool.n > n) {
        objc_release(pool.at[--pool.n]);
    }
    if (n == 0) {
        free(pool.at);
        memset(&pool, 0, sizeof pool);
    }
}

id objc_autorelease(id o)
{
    if (!counted(o)) {
        return o;
    }
    if (pool.n == pool.cap) {
        pool.cap = pool.cap ? 2 * pool.cap : 64;
        pool.at = realloc(pool.at, pool.cap * sizeof *pool.at);
    }
    return pool.at[pool.n++] = o;
}

id objc_autoreleaseReturnValue(id o)
{
    return objc_autorelease(o);
}
id objc_retainAutorelease(id o)
{
    return objc_autorelease(objc_retain(o));
}
id objc_retainAutoreleaseReturnValue(id o)
{
    return objc_retainAutorelease(o);
}
id objc_retainAutoreleasedReturnValue(id o)
{
    return objc_retain(o);
}
id objc_unsafeClaimAutoreleasedReturnValue(id o)
{
    return o;
}

/* ---- blocks ---- */

void *_NSConcreteStackBlock[32], *_NSConcreteMallocBlock[32], *_NSConcreteGlobalBlock[32];
enum { BLOCK_HAS_COPY = 1 << 25, BLOCK_IS_GLOBAL = 1 << 28 };
enum { FIELD_IS_OBJECT = 3, FIELD_IS_BLOCK = 7, FIELD_IS_BYREF = 8 };

struct block {
    void *isa;
    int flags;
    atomic_int count;
    void (*invoke)(void);
    struct {
        unsigned long reserved, size;
        void (*copy)(void *to, const void *from);
        void (*dispose)(void *b);
    } * d;
};
struct byref {
    void *isa;
    struct byref *forwarding;
    int flags;
    unsigned size;
    void (*keep)(struct byref *to, struct byref *from);
    void (*destroy)(struct byref *b);
};

void *_Block_copy(const void *p)
{
    struct block *b = (struct block *)p;
    if (!b || b->flags & BLOCK_IS_GLOBAL) {
        return b;
    }
    if (b->isa == (void *)_NSConcreteMallocBlock) {
        atomic_fetch_add(&b->count, 1);
        return b;
    }
    struct block *c = malloc(b->d->size);
    memcpy(c, b, b->d->size);
    c->isa = (void *)_NSConcreteMallocBlock;
    atomic_init(&c->count, 1);
    atomic_fetch_add(&live, 1);
    if (b->flags & BLOCK_HAS_COPY) {
        b->d->copy(c, b);
    }
    return c;
}

void _Block_release(const void *p)
{
    struct block *b = (struct block *)p;
    if (!b || b->isa != (void *)_NSConcreteMallocBlock || atomic_fetch_sub(&b->count, 1) != 1) {
        return;
    }
    if (b->flags & BLOCK_HAS_COPY) {
        b->d->dispose(b);
    }
    atomic_fetch_sub(&live, 1);
    free(b);
}

void _Block_object_assign(void *to, const void *from, int flags)
{
    int kind = flags & 15;
    if (kind == FIELD_IS_OBJECT) {
        *(id *)to = objc_retain((id)from);
    } else if (kind == FIELD_IS_BLOCK) {
        *(void **)to = _Block_copy(from);
    } else if (kind == FIELD_IS_BYREF) {
        struct byref *b = ((struct byref *)from)->forwarding;
        if (!(b->flags & 1)) { /* still on the stack: to the heap, both point there */
            struct byref *heap = malloc(b->size);
            memcpy(heap, b, b->size);
            heap->forwarding = heap;
            heap->flags = b->flags | 1 | 4; /* on the heap; bits 1.. count, here twice one */
            b->forwarding = heap;
            if (b->flags & BLOCK_HAS_COPY) {
                b->keep(heap, b);
            }
            b = heap;
        } else {
            b->flags += 2;
        }
        *(void **)to = b;
    }
}

void _Block_object_dispose(const void *p, int flags)
{
    int kind = flags & 15;
    if (kind == FIELD_IS_OBJECT) {
        objc_release((id)p);
    } else if (kind == FIELD_IS_BLOCK) {
        _Block_release(p);
    } else if (kind == FIELD_IS_BYREF) {
        struct byref *b = ((struct byref *)p)->forwarding;
        if (b->flags & 1) {
            b->flags -= 2;
            if ((b->flags & 0xFFFE) == 0) {
                if (b->flags & BLOCK_HAS_COPY) {
                    b->destroy(b);
                }
                free(b);
            }
        }
    }
}

int __gnu_objc_personality_v0(void)
{
    abort(); /* exceptions are not used */
}
