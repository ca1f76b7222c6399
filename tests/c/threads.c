/* Two texts at once, on two threads, by one model: threads MODEL PROMPT PROMPT N
 *
 * Prints the first text, then the second. */
#define _POSIX_C_SOURCE 200112L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparse_run.h"

struct work {
    const spr_model *model;
    const char *prompt;
    uint32_t tokens;
    char text[4096];
    size_t length;
    char error[256];
    spr_status status;
};

static int keep(const char *text, size_t length, void *user_data)
{
    struct work *work = (struct work *)user_data;

    if (length > sizeof(work->text) - work->length)
        return 0;
    memcpy(work->text + work->length, text, length);
    work->length += length;
    return 1;
}

static void *run(void *data)
{
    struct work *work = (struct work *)data;
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_session *session = NULL;

    room.context = 256;
    options.temperature = 0;
    options.max_tokens = work->tokens;
    work->status = spr_session_new(work->model, &room, &session);
    if (work->status == SPR_OK)
        work->status = spr_generate(session, work->prompt, &options, keep, work);
    if (work->status != SPR_OK) /* the sentence is this thread's own */
        strncpy(work->error, spr_last_error(), sizeof(work->error) - 1);
    spr_session_free(session);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct work works[2];
    pthread_t threads[2];
    spr_load_options load = SPR_LOAD_OPTIONS_INIT;
    spr_model *model = NULL;
    int i, failed = 0;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL PROMPT PROMPT N\n", argv[0]);
        return 2;
    }
    load.threads = 2;
    if (spr_model_load_file(argv[1], &load, &model) != SPR_OK) {
        fprintf(stderr, "%s\n", spr_last_error());
        return 1;
    }
    for (i = 0; i < 2; i++) {
        works[i].model = model;
        works[i].prompt = argv[2 + i];
        works[i].tokens = (uint32_t)strtoul(argv[4], NULL, 10);
        if (pthread_create(&threads[i], NULL, run, &works[i]) != 0)
            return 1;
    }
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        if (works[i].status != SPR_OK) {
            fprintf(stderr, "%s\n", works[i].error);
            failed = 1;
        }
        fputs(works[i].prompt, stdout);
        fwrite(works[i].text, 1, works[i].length, stdout);
        putchar('\n');
    }
    spr_model_free(model);
    return failed;
}
