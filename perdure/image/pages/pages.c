/* The inner loop of a shared-page checkpoint: fingerprints of 4 KiB pages, and where each page's content is already.
 *
 * matching.py owns the memory and says what the words mean; its class PythonLoop does the same, slower, to the byte
 * (tests/unit/test_pages.py holds the two against each other). Nothing is allocated and no file is touched here.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE 4096u
#define PRINT 16u
#define MOST 256u /* pages of a block: 1 MiB */
#define ZERO UINT64_C(0xffffffffffffffff)
#define NEW UINT64_C(0xfffffffffffffffe)
#define NOWHERE UINT64_C(0xffffffffffffffff)

struct pages { /* as matching.py's Memory */
    uint8_t *prints;   /* PRINT bytes for each known page: the base's, then the staged ones */
    uint64_t *origins; /* of the base's pages */
    uint32_t *table;   /* number of a known page + 1; 0 is free */
    uint64_t mask;     /* the table's size - 1 */
    uint64_t base;     /* pages of the base */
    uint64_t staged;   /* pages staged so far */
    uint64_t room;     /* known pages at most */
    uint8_t *staging;
    uint64_t ring;     /* pages that fit into `staging` */
    uint64_t first;    /* origin of the first staged page */
    uint64_t seed;
    uint8_t zero[PRINT];
};

static void print_of(const uint8_t *page, uint64_t seed, uint8_t *out)
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)out, XXH3_128bits_withSeed(page, PAGE, seed));
}

static int same(const uint8_t *a, const uint8_t *b) { return memcmp(a, b, PRINT) == 0; }

/* The place in the table of a print, or the free place where it would be. */
static uint32_t *place(const struct pages *p, const uint8_t *print)
{
    uint64_t at;
    memcpy(&at, print, sizeof at);
    for (at &= p->mask; p->table[at]; at = (at + 1) & p->mask)
        if (same(p->prints + (uint64_t)(p->table[at] - 1) * PRINT, print))
            break;
    return &p->table[at];
}

static uint64_t origin_of(const struct pages *p, uint64_t source)
{
    return source < p->base ? p->origins[source] : p->first + (source - p->base);
}

/* Where the pages of a block are, each following the one before where it can. Returns how often the disk would jump. */
static unsigned find(const struct pages *p, const uint8_t *prints, unsigned n, uint64_t *next, uint64_t *sources)
{
    uint64_t known = p->base + p->staged, before = NOWHERE;
    unsigned jumps = 0, any = 0;
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *print = prints + i * PRINT;
        if (same(print, p->zero)) {
            sources[i] = ZERO;
            if (*next != NOWHERE)
                ++*next;
            continue;
        }
        if (*next < known && same(p->prints + *next * PRINT, print))
            sources[i] = *next;
        else {
            uint32_t found = *place(p, print);
            sources[i] = found ? found - 1 : NEW;
        }
        if (sources[i] != NEW)
            *next = sources[i] + 1;
        else if (*next != NOWHERE)
            ++*next;
        uint64_t origin = sources[i] == NEW ? NEW : origin_of(p, sources[i]);
        if (any && !(origin == NEW ? before == NEW : before != NEW && origin == before + 1))
            jumps++;
        any = 1;
        before = origin;
    }
    return jumps;
}

static uint64_t stage(struct pages *p, const uint8_t *page, const uint8_t *print)
{
    uint64_t number = p->base + p->staged;
    memcpy(p->prints + number * PRINT, print, PRINT);
    *place(p, print) = (uint32_t)(number + 1);
    memcpy(p->staging + p->staged % p->ring * PAGE, page, PAGE);
    p->staged++;
    return number;
}

/* Enter the base's pages; the first of equal ones stays. */
void pages_load(struct pages *p)
{
    for (uint64_t number = 0; number < p->base; number++) {
        uint32_t *at = place(p, p->prints + number * PRINT);
        if (!*at)
            *at = (uint32_t)(number + 1);
    }
}

/* Take a block of at most 256 pages. `most`: jumps of the disk that it may cost to read (0: any number); a block that
 * costs more is staged whole. Out: prints, origins, and runs of (page of the block, pages, source). Returns the number
 * of runs; -1 if there is no room. The caller has made sure that `n` pages of `staging` are free. */
int pages_take(struct pages *p, const uint8_t *block, unsigned n, uint64_t *next, unsigned most, uint8_t *prints,
               uint64_t *origins, uint64_t *runs)
{
    uint64_t sources[MOST], others[MOST], follow = *next, anew = NOWHERE;
    int count = 0, whole = 0;
    if (n > MOST || n > p->ring || p->base + p->staged + n > p->room)
        return -1;
    for (unsigned i = 0; i < n; i++)
        print_of(block + i * PAGE, p->seed, prints + i * PRINT);
    unsigned jumps = find(p, prints, n, &follow, sources);
    if (most && jumps > most) {
        /* What was staged last may lie together: predump.py puts it there for this. */
        unsigned fewer = find(p, prints, n, &anew, others);
        if (fewer < jumps) {
            memcpy(sources, others, sizeof sources);
            follow = anew;
            jumps = fewer;
        }
        whole = jumps > most;
    }
    *next = follow;
    for (unsigned i = 0; i < n; i++) {
        uint64_t source = sources[i];
        const uint8_t *print = prints + i * PRINT;
        if (source == NEW && !whole) { /* or new no longer: its like was staged a moment ago */
            uint32_t found = *place(p, print);
            source = found ? found - 1 : NEW;
        }
        if (source != ZERO && (whole || source == NEW))
            source = stage(p, block + i * PAGE, print);
        origins[i] = source == ZERO ? ZERO : origin_of(p, source);
        uint64_t *run = count ? runs + 3 * (count - 1) : NULL;
        if (run && (source == ZERO ? run[2] == ZERO : run[2] != ZERO && run[2] + run[1] == source)) {
            run[1]++;
            continue;
        }
        run = runs + 3 * count++;
        run[0] = i;
        run[1] = 1;
        run[2] = source;
    }
    return count;
}

/* The first page whose print is not the wanted one; -1 if all are as wanted. */
int64_t pages_check(const uint8_t *block, uint64_t n, uint64_t seed, const uint8_t *wanted)
{
    uint8_t print[PRINT];
    for (uint64_t i = 0; i < n; i++) {
        print_of(block + i * PAGE, seed, print);
        if (!same(print, wanted + i * PRINT))
            return (int64_t)i;
    }
    return -1;
}
