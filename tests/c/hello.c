/* Prints a prompt and its greedy continuation: hello MODEL PROMPT N */
#include <stdio.h>
#include <stdlib.h>

#include "sparse_run.h"

static int show(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    fwrite(text, 1, length, stdout);
    return 1;
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, spr_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    spr_load_options load = SPR_LOAD_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_model *model = NULL;
    uint64_t bytes = 0;
    spr_status status;

    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL PROMPT N\n", argv[0]);
        return 2;
    }
    if (spr_memory_needed(argv[1], 64, &bytes) != SPR_OK)
        return fail("memory needed");
    fprintf(stderr, "%s needs %lu bytes\n", argv[1], (unsigned long)bytes);
    if (spr_model_load_file(argv[1], &load, &model) != SPR_OK)
        return fail("load");
    options.max_tokens = (uint32_t)strtoul(argv[3], NULL, 10);
    options.temperature = 0;
    fputs(argv[2], stdout);
    status = spr_generate(model, argv[2], &options, show, NULL);
    spr_model_free(model);
    return status == SPR_OK ? 0 : fail("generate");
}
