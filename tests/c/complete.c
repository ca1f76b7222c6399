/* Token by token: completes a text until a stop text comes or a callback has enough, then goes on from a saved state.
 *
 *     complete MODEL PROMPT STOP N STATE
 *
 * Prints the text up to STOP, then on a line of its own how many bytes came before the callback stopped another run,
 * then the N tokens that follow the prompt, chosen one by one, from a state that was written to the file STATE. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparse_run.h"

static int show(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    return fwrite(text, 1, length, stdout) == length;
}

/* Stops once there are at least 4 bytes. */
static int count(const char *text, size_t length, void *user_data)
{
    size_t *bytes = (size_t *)user_data;

    (void)text;
    *bytes += length;
    return *bytes < 4;
}

/* Reads a text as tokens: asks for the size first. */
static spr_status read_text(const spr_model *model, spr_session *session, const char *text)
{
    size_t count = 0, length = strlen(text);
    uint32_t *tokens;
    spr_status status = spr_tokenize(model, text, length, SPR_TOKENIZE_BEGIN, NULL, 0, &count);

    if (status != SPR_OK)
        return status;
    tokens = (uint32_t *)malloc(count * sizeof(*tokens));
    if (tokens == NULL)
        return SPR_OUT_OF_MEMORY;
    status = spr_tokenize(model, text, length, SPR_TOKENIZE_BEGIN, tokens, count, &count);
    if (status == SPR_OK)
        status = spr_eval(session, tokens, count);
    free(tokens);
    return status;
}

static spr_status write_tokens(const spr_model *model, spr_session *session, unsigned long n)
{
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_status status = SPR_OK;

    options.temperature = 0;
    while (n-- > 0 && status == SPR_OK) {
        char text[64];
        size_t length = 0;
        uint32_t token = 0;

        status = spr_sample(session, &options, &token);
        if (status != SPR_OK || spr_token_is_end(model, token))
            break;
        status = spr_detokenize(model, &token, 1, text, sizeof(text), &length);
        if (status == SPR_OK)
            fwrite(text, 1, length, stdout);
        if (status == SPR_OK)
            status = spr_eval(session, &token, 1);
    }
    return status;
}

static spr_status run(const spr_model *model, spr_session *session, char **argv)
{
    const char *stop[1];
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    size_t bytes = 0;
    spr_status status;

    stop[0] = argv[3];
    options.temperature = 0;
    options.max_tokens = (uint32_t)strtoul(argv[4], NULL, 10);
    options.stop = stop;
    options.stop_count = 1;
    status = spr_generate(session, argv[2], &options, show, NULL);
    if (status != SPR_OK)
        return status;
    options.stop_count = 0;
    status = spr_generate(session, argv[2], &options, count, &bytes);
    if (status != SPR_CANCELLED)
        return status == SPR_OK ? SPR_ERROR : status;
    printf("\n%lu\n", (unsigned long)bytes);

    status = spr_session_reset(session);
    if (status == SPR_OK)
        status = read_text(model, session, argv[2]);
    if (status == SPR_OK)
        status = spr_session_save_file(session, argv[5]);
    if (status == SPR_OK)
        status = spr_session_reset(session);
    if (status == SPR_OK)
        status = spr_session_restore_file(session, argv[5]);
    return status == SPR_OK ? write_tokens(model, session, options.max_tokens) : status;
}

int main(int argc, char **argv)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_model *model = NULL;
    spr_session *session = NULL;
    spr_status status;

    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL PROMPT STOP N STATE\n", argv[0]);
        return 2;
    }
    room.context = 512;
    status = spr_model_load_file(argv[1], NULL, &model);
    if (status == SPR_OK)
        status = spr_session_new(model, &room, &session);
    if (status == SPR_OK)
        status = run(model, session, argv);
    if (status != SPR_OK)
        fprintf(stderr, "%s: %s\n", spr_status_text(status), spr_last_error());
    spr_session_free(session);
    spr_model_free(model);
    return status == SPR_OK ? 0 : 1;
}
