/* Prints a prompt and its greedy continuation: hello MODEL PROMPT N */
#include <stdio.h>
#include <stdlib.h>

#include "sparse_run.h"

static int show(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    return fwrite(text, 1, length, stdout) == length;
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, spr_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_model *model = NULL;
    spr_session *session = NULL;
    uint64_t bytes = 0;
    spr_status status;

    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL PROMPT N\n", argv[0]);
        return 2;
    }
    room.context = 512;
    if (spr_memory_needed(argv[1], NULL, &room, &bytes) != SPR_OK)
        return fail("memory needed");
    fprintf(stderr, "%s needs %lu bytes\n", argv[1], (unsigned long)bytes);
    if (spr_model_load_file(argv[1], NULL, &model) != SPR_OK)
        return fail("load");
    if (spr_session_new(model, &room, &session) != SPR_OK) {
        spr_model_free(model);
        return fail("session");
    }
    options.max_tokens = (uint32_t)strtoul(argv[3], NULL, 10);
    options.temperature = 0;
    fputs(argv[2], stdout);
    status = spr_generate(session, argv[2], &options, show, NULL);
    spr_session_free(session);
    spr_model_free(model);
    return status == SPR_OK ? 0 : fail("generate");
}
