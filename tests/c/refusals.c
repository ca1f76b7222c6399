/* Memory that the system refuses: refusals MODEL
 *
 * Loads a model, makes a session, writes a few tokens, again and again: first the first allocation is refused, then the
 * second, and so on until there are no more; then the same with all that follow refused as well. Linked with
 * -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign,--wrap=aligned_alloc,--wrap=free. Prints how many
 * allocations there were, how many of the times were errors, and how many were not as they should be. */
#define _POSIX_C_SOURCE 200112L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparse_run.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
int __real_posix_memalign(void **to, size_t alignment, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *old);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
int __wrap_posix_memalign(void **to, size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *old);

/* Allocations until one is refused, from 1; less after that; LONG when none is to be. The library works on two threads. */
#define LONG 1000000000L
static long left = LONG;
static int and_all_after;
static long live;

static int refused(void)
{
    long now = __sync_sub_and_fetch(&left, 1);

    return now == 0 || (now < 0 && and_all_after);
}

static void *counted(void *made)
{
    if (made != NULL)
        __sync_add_and_fetch(&live, 1);
    return made;
}

void *__wrap_malloc(size_t size) { return refused() ? NULL : counted(__real_malloc(size)); }
void *__wrap_calloc(size_t n, size_t size) { return refused() ? NULL : counted(__real_calloc(n, size)); }
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return refused() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

int __wrap_posix_memalign(void **to, size_t alignment, size_t size)
{
    int error = refused() ? 12 : __real_posix_memalign(to, alignment, size);

    if (error == 0)
        __sync_add_and_fetch(&live, 1);
    return error;
}

void *__wrap_realloc(void *old, size_t size)
{
    return refused() ? NULL : old == NULL ? counted(__real_realloc(NULL, size)) : __real_realloc(old, size);
}

void __wrap_free(void *old)
{
    if (old != NULL)
        __sync_sub_and_fetch(&live, 1);
    __real_free(old);
}

static char text[256];
static size_t text_length;

static int keep(const char *piece, size_t length, void *user_data)
{
    (void)user_data;
    if (length > sizeof(text) - text_length)
        return 0;
    memcpy(text + text_length, piece, length);
    text_length += length;
    return 1;
}

/* Load, session, a few tokens. */
static spr_status run(const char *path, spr_model **model, spr_session **session)
{
    spr_load_options load = SPR_LOAD_OPTIONS_INIT;
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_status status;

    load.threads = 2;
    load.load = SPR_LOAD_COPY;
    room.context = 64;
    options.max_tokens = 4;
    options.temperature = 0;
    text_length = 0;
    status = spr_model_load_file(path, &load, model);
    if ((status == SPR_OK) != (*model != NULL))
        fprintf(stderr, "status %d and model %p\n", (int)status, (void *)*model);
    if (status == SPR_OK) {
        status = spr_session_new(*model, &room, session);
        if ((status == SPR_OK) != (*session != NULL))
            fprintf(stderr, "status %d and session %p\n", (int)status, (void *)*session);
    }
    return status == SPR_OK ? spr_generate(*session, "def f", &options, keep, NULL) : status;
}

int main(int argc, char **argv)
{
    char expected[256];
    size_t expected_length = 0;
    long n, before = 0, times[2] = { 0, 0 }, errors = 0, failures = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    for (and_all_after = 0; and_all_after < 2; and_all_after++) {
        /* The first two times nothing is refused, and things are made that stay. */
        for (n = -1;; n++) {
            spr_model *model = NULL;
            spr_session *session = NULL;
            long at = n < 1 ? LONG : n;
            spr_status status;
            int bad, done;

            left = at;
            status = run(argv[1], &model, &session);
            done = n >= 1 && left > 0;
            left = LONG;
            bad = status != SPR_OK && (status != SPR_OUT_OF_MEMORY || strlen(spr_last_error()) < 10);
            if (bad)
                fprintf(stderr, "%ld: status %d: %s\n", n, (int)status, spr_last_error());
            errors += status != SPR_OK;
            if (n < 1) {
                memcpy(expected, text, text_length);
                expected_length = text_length;
            }
            if (status == SPR_OK && (text_length != expected_length || memcmp(text, expected, text_length) != 0)) {
                fprintf(stderr, "%ld: another text\n", n);
                bad = 1;
            }
            spr_session_free(session);
            spr_model_free(model);
            /* So that the sentence of the last error is always the same one. */
            spr_model_load_file("none", NULL, &model);
            if (n == 0)
                before = live;
            if (n > 0 && live != before) {
                fprintf(stderr, "%ld: %ld allocations left, before %ld\n", n, live, before);
                bad = 1;
            }
            failures += bad || (n < 1 && status != SPR_OK);
            if (done || failures > 20)
                break;
            times[and_all_after] = n;
        }
    }
    printf("%ld and %ld allocations, %ld errors, %ld failures\n", times[0], times[1], errors, failures);
    return failures != 0;
}
