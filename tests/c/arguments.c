/* Every function with arguments that make no sense: arguments MODEL FOLDER
 *
 * Each must give the status of the table and a sentence, and leave the model and the session usable. */
#define _POSIX_C_SOURCE 200112L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sparse_run.h"

static int failures;

static void check(spr_status expected, spr_status found, const char *call, int line)
{
    if (found != expected || (found != SPR_OK && spr_last_error()[0] == '\0')) {
        fprintf(stderr, "line %d: %s: %s, expected %s (%s)\n", line, call, spr_status_text(found),
                spr_status_text(expected), spr_last_error());
        failures++;
    }
}

#define EXPECT(status, call) check(status, call, #call, __LINE__)
#define INVALID(call) EXPECT(SPR_INVALID_ARGUMENT, call)
#define OK(call) EXPECT(SPR_OK, call)
#define TRUE(what) check(SPR_OK, (what) ? SPR_OK : SPR_ERROR, #what, __LINE__)

static const size_t HUGE_SIZE = (size_t)-1;
static spr_model *model;
static spr_session *session;
static const char *path;
/* Handles of the wrong kind, and memory that is none at all. */
static uint64_t zeros[64];
#define MODEL_OF(x) ((spr_model *)(void *)(x))
#define SESSION_OF(x) ((spr_session *)(void *)(x))

static int go_on(const char *text, size_t length, void *user_data)
{
    (void)text, (void)length, (void)user_data;
    return 1;
}

static int stop_loading(float fraction, void *user_data)
{
    (void)user_data;
    return fraction < 0.5f;
}

static int abort_if(void *user_data)
{
    return *(int *)user_data;
}

static void log_line(const char *text, void *user_data)
{
    if (text[0] != '\0')
        ++*(int *)user_data;
}

/* Calls on a session from within a call on it. */
static int reenter(const char *text, size_t length, void *user_data)
{
    uint32_t token = 1;
    const float *logits;
    size_t n;

    (void)text, (void)length, (void)user_data;
    EXPECT(SPR_BUSY, spr_eval(session, &token, 1));
    EXPECT(SPR_BUSY, spr_logits(session, &logits, &n));
    EXPECT(SPR_BUSY, spr_session_reset(session));
    EXPECT(SPR_BUSY, spr_generate(session, "x", NULL, go_on, NULL));
    return 0;
}

static void check_versions(void)
{
    TRUE(spr_abi_version() == SPR_ABI_VERSION);
    TRUE(strlen(spr_version()) >= 5);
    TRUE(strcmp(spr_status_text(SPR_OK), "done") == 0);
    TRUE(strcmp(spr_status_text(0xFFFFFFFFu), "unknown status") == 0);
    TRUE(spr_last_error() != NULL);
}

static void check_loading(const char *folder)
{
    spr_load_options load = SPR_LOAD_OPTIONS_INIT;
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_model *none = MODEL_OF(zeros);
    uint64_t bytes = 7;
    int fd, said = 0;

    INVALID(spr_memory_needed(NULL, NULL, NULL, &bytes));
    INVALID(spr_memory_needed(path, NULL, NULL, NULL));
    INVALID(spr_memory_needed("\xff", NULL, NULL, &bytes));
    EXPECT(SPR_ERROR, spr_memory_needed("", NULL, NULL, &bytes));
    TRUE(bytes == 7);
    room.context = 0xFFFFFFFFu;
    OK(spr_memory_needed(path, NULL, &room, &bytes));
    TRUE(bytes > (uint64_t)1 << 40);
    room.kv = 77;
    INVALID(spr_memory_needed(path, NULL, &room, &bytes));

    INVALID(spr_model_load_file(path, NULL, NULL));
    INVALID(spr_model_load_file(NULL, NULL, &none));
    TRUE(none == NULL);
    EXPECT(SPR_ERROR, spr_model_load_file("no such file", NULL, &none));
    EXPECT(SPR_BAD_FILE, spr_model_load_file(folder, NULL, &none));
    EXPECT(SPR_BAD_FILE, spr_model_load_file("/dev/null", NULL, &none));
    load.struct_size = 0;
    INVALID(spr_model_load_file(path, &load, &none));
    load.struct_size = HUGE_SIZE;
    INVALID(spr_model_load_file(path, &load, &none));
    load.struct_size = sizeof(load);
    load.load = 3;
    INVALID(spr_model_load_file(path, &load, &none));
    load.load = SPR_LOAD_AUTO;
    load.threads = 0xFFFFFFFFu;
    INVALID(spr_model_load_file(path, &load, &none));
    load.threads = 1;
    load.progress = stop_loading;
    EXPECT(SPR_CANCELLED, spr_model_load_file(path, &load, &none));
    load.load = SPR_LOAD_COPY;
    EXPECT(SPR_CANCELLED, spr_model_load_file(path, &load, &none));
    load.progress = NULL;
    load.log = log_line;
    load.user_data = &said;
    OK(spr_model_load_file(path, &load, &none));
    TRUE(said == 1);
    spr_model_free(none);
    /* An older header's options, which end after `threads`. */
    load.struct_size = offsetof(spr_load_options, load);
    load.load = 3;
    OK(spr_model_load_file(path, &load, &none));
    spr_model_free(none);

    INVALID(spr_model_load_fd(0, NULL, NULL));
    INVALID(spr_model_load_fd(-1, NULL, &none));
    INVALID(spr_model_load_fd(0x7FFFFFFF, NULL, &none));
    fd = open(path, O_RDONLY);
    TRUE(lseek(fd, 100, SEEK_SET) == 100);
    OK(spr_model_load_fd(fd, NULL, &none));
    spr_model_free(none);
    TRUE(lseek(fd, 0, SEEK_CUR) == 100);
    close(fd);
    INVALID(spr_model_load_fd(fd, NULL, &none));

    INVALID(spr_model_load_memory(NULL, 0, NULL, &none));
    INVALID(spr_model_load_memory(NULL, 100, NULL, &none));
    INVALID(spr_model_load_memory(zeros, sizeof(zeros), NULL, NULL));
    INVALID(spr_model_load_memory(zeros, HUGE_SIZE, NULL, &none));
    EXPECT(SPR_OUT_OF_MEMORY, spr_model_load_memory(zeros, HUGE_SIZE / 4, NULL, &none));
    EXPECT(SPR_BAD_FILE, spr_model_load_memory(zeros, 0, NULL, &none));
    EXPECT(SPR_BAD_FILE, spr_model_load_memory(zeros, sizeof(zeros), NULL, &none));
    TRUE(none == NULL);
}

static void check_model(void)
{
    spr_model_info info = SPR_MODEL_INFO_INIT;

    INVALID(spr_model_get_info(NULL, &info));
    INVALID(spr_model_get_info(model, NULL));
    INVALID(spr_model_get_info(MODEL_OF(zeros), &info));
    INVALID(spr_model_get_info(MODEL_OF(session), &info));
    INVALID(spr_model_get_info(MODEL_OF((char *)zeros + 1), &info));
    info.struct_size = 1;
    INVALID(spr_model_get_info(model, &info));
    info.struct_size = offsetof(spr_model_info, bytes_per_token);
    OK(spr_model_get_info(model, &info));
    TRUE(info.file_bytes > 0 && info.bytes_per_token == 0);
    info.struct_size = sizeof(info);
    OK(spr_model_get_info(model, &info));
    TRUE(info.vocabulary > 256 && info.context > 0 && info.layers > 0 && info.threads > 0 && info.can_infill == 1);
    TRUE(strlen(spr_model_identity(model)) == 64);
    TRUE(strlen(spr_model_identity(NULL)) == 0);
    TRUE(strlen(spr_model_identity(MODEL_OF(session))) == 0);
    TRUE(spr_token_is_end(model, info.vocabulary) == 0);
    TRUE(spr_token_is_end(NULL, 0) == 0);
    spr_model_free(NULL);
    spr_model_free(MODEL_OF(session)); /* is no model, and is left alone */
}

static void check_tokens(void)
{
    uint32_t tokens[8] = { 1, 2, 3, 0xFFFFFFFFu, 0, 0, 0, 0 };
    char text[8];
    size_t n = 99;

    INVALID(spr_tokenize(NULL, "x", 1, 0, tokens, 8, &n));
    INVALID(spr_tokenize(MODEL_OF(session), "x", 1, 0, tokens, 8, &n));
    INVALID(spr_tokenize(model, NULL, 1, 0, tokens, 8, &n));
    INVALID(spr_tokenize(model, "x", HUGE_SIZE, 0, tokens, 8, &n));
    INVALID(spr_tokenize(model, "\xff", 1, 0, tokens, 8, &n));
    INVALID(spr_tokenize(model, "x", 1, 4, tokens, 8, &n));
    INVALID(spr_tokenize(model, "x", 1, 0, tokens, 8, NULL));
    INVALID(spr_tokenize(model, "x", 1, 0, NULL, 8, &n));
    EXPECT(SPR_BUFFER_TOO_SMALL, spr_tokenize(model, "xyz", 3, 0, tokens, 1, &n));
    TRUE(n == 3 && tokens[0] == 1);
    OK(spr_tokenize(model, NULL, 0, 0, NULL, 0, &n));
    TRUE(n == 0);

    INVALID(spr_detokenize(NULL, tokens, 1, text, 8, &n));
    INVALID(spr_detokenize(model, NULL, 1, text, 8, &n));
    INVALID(spr_detokenize(model, tokens, HUGE_SIZE, text, 8, &n));
    INVALID(spr_detokenize(model, tokens, 4, text, 8, &n));
    INVALID(spr_detokenize(model, tokens, 3, text, 8, NULL));
    INVALID(spr_detokenize(model, tokens, 3, NULL, 8, &n));
    EXPECT(SPR_BUFFER_TOO_SMALL, spr_detokenize(model, tokens, 3, text, 2, &n));
    OK(spr_detokenize(model, NULL, 0, NULL, 0, &n));
}

static void check_sessions(void)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_session_info info = SPR_SESSION_INFO_INIT;
    spr_session *none = SESSION_OF(zeros);

    INVALID(spr_session_new(NULL, &room, &none));
    TRUE(none == NULL);
    INVALID(spr_session_new(MODEL_OF(session), &room, &none));
    INVALID(spr_session_new(model, &room, NULL));
    room.struct_size = 3;
    INVALID(spr_session_new(model, &room, &none));
    room.struct_size = sizeof(room);
    room.kv = 9;
    INVALID(spr_session_new(model, &room, &none));
    room.kv = SPR_KV_F32;
    room.context = 0xFFFFFFFFu;
    EXPECT(SPR_OUT_OF_MEMORY, spr_session_new(model, &room, &none));
    TRUE(none == NULL);
    spr_session_free(NULL);
    spr_session_free(SESSION_OF(model));

    INVALID(spr_session_get_info(NULL, &info));
    INVALID(spr_session_get_info(SESSION_OF(model), &info));
    INVALID(spr_session_get_info(session, NULL));
    OK(spr_session_get_info(session, &info));
    TRUE(info.context == 64 && info.position == 0);
}

/* On a session that has read nothing. */
static void check_reading(void)
{
    uint32_t tokens[2] = { 100, 0xFFFFFFFFu };
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    const float *logits = NULL;
    size_t n = 0;

    INVALID(spr_logits(session, &logits, &n)); /* nothing read yet */
    INVALID(spr_sample(session, NULL, tokens));
    INVALID(spr_session_save(session, zeros, sizeof(zeros), &n));
    INVALID(spr_eval(NULL, tokens, 1));
    INVALID(spr_eval(SESSION_OF(model), tokens, 1));
    INVALID(spr_eval(session, NULL, 1));
    INVALID(spr_eval(session, tokens, 2));
    EXPECT(SPR_CONTEXT_FULL, spr_eval(session, tokens, 65));
    EXPECT(SPR_CONTEXT_FULL, spr_eval(session, tokens, HUGE_SIZE));
    INVALID(spr_logits(session, &logits, &n)); /* nothing of those was read */
    OK(spr_eval(session, NULL, 0));
    OK(spr_eval(session, tokens, 1));

    INVALID(spr_logits(NULL, &logits, &n));
    INVALID(spr_logits(session, NULL, &n));
    INVALID(spr_logits(session, &logits, NULL));
    OK(spr_logits(session, &logits, &n));
    TRUE(n > 256 && logits[0] == logits[0]);

    INVALID(spr_sample(NULL, NULL, tokens));
    INVALID(spr_sample(session, NULL, NULL));
    options.flags = 8;
    INVALID(spr_sample(session, &options, tokens));
    options.struct_size = 2;
    INVALID(spr_sample(session, &options, tokens));
    OK(spr_sample(session, NULL, tokens));

    INVALID(spr_session_truncate(NULL, 0, &n));
    INVALID(spr_session_truncate(session, 2, &n));
    INVALID(spr_session_truncate(session, HUGE_SIZE, &n));
    tokens[0] = 100;
    OK(spr_eval(session, tokens, 1));
    OK(spr_session_truncate(session, 1, &n));
    TRUE(n == 1);
    INVALID(spr_logits(session, &logits, &n)); /* they are of what was cut off */
    INVALID(spr_sample(session, NULL, tokens));
    OK(spr_session_truncate(session, 0, NULL));
    INVALID(spr_session_reset(NULL));
    OK(spr_session_reset(session));
}

static void check_generating(void)
{
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    const char *stop[1] = { NULL };
    char prompt[200];

    memset(prompt, 'x', sizeof(prompt));
    prompt[sizeof(prompt) - 1] = '\0';
    INVALID(spr_generate(NULL, "x", NULL, go_on, NULL));
    INVALID(spr_generate(SESSION_OF(model), "x", NULL, go_on, NULL));
    INVALID(spr_generate(session, NULL, NULL, go_on, NULL));
    INVALID(spr_generate(session, "\xff", NULL, go_on, NULL));
    INVALID(spr_generate(session, "x", NULL, NULL, NULL));
    EXPECT(SPR_CONTEXT_FULL, spr_generate(session, prompt, NULL, go_on, NULL));
    options.stop = stop;
    options.stop_count = 1;
    INVALID(spr_generate(session, "x", &options, go_on, NULL));
    options.stop_count = HUGE_SIZE;
    INVALID(spr_generate(session, "x", &options, go_on, NULL));
    options.stop = NULL; /* then the count does not matter */
    options.max_tokens = 0;
    OK(spr_generate(session, "x", &options, go_on, NULL));
    options.flags = 0xFFFFFFFFu;
    INVALID(spr_generate(session, "x", &options, go_on, NULL));
    options.flags = SPR_GENERATE_CONTINUE | SPR_GENERATE_SPECIAL;
    options.max_tokens = 0xFFFFFFFFu; /* the context ends it */
    options.temperature = 0;
    OK(spr_generate(session, "x", &options, go_on, NULL));
    EXPECT(SPR_CANCELLED, spr_generate(session, "x", NULL, reenter, NULL));

    INVALID(spr_infill(NULL, "a", "b", NULL, go_on, NULL));
    INVALID(spr_infill(session, NULL, "b", NULL, go_on, NULL));
    INVALID(spr_infill(session, "a", NULL, NULL, go_on, NULL));
    INVALID(spr_infill(session, "a", "b", NULL, NULL, NULL));
    EXPECT(SPR_CONTEXT_FULL, spr_infill(session, prompt, prompt, NULL, go_on, NULL));
}

static void check_abort(void)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_session *other = NULL;
    uint32_t token = 100;
    int aborts = 1;

    room.context = 64;
    room.abort = abort_if;
    room.user_data = &aborts;
    OK(spr_session_new(model, &room, &other));
    EXPECT(SPR_CANCELLED, spr_eval(other, &token, 1));
    EXPECT(SPR_CANCELLED, spr_generate(other, "x", NULL, go_on, NULL));
    aborts = 0;
    OK(spr_eval(other, &token, 1));
    spr_session_free(other);
}

/* Bytes that were saved, then changed in every way that matters, and bytes that were not. */
static void check_state(const char *folder)
{
    char file[1024];
    unsigned char *state;
    size_t i, n = 0;
    uint32_t token = 100;

    OK(spr_session_reset(session));
    OK(spr_eval(session, &token, 1));
    INVALID(spr_session_save(NULL, NULL, 0, &n));
    INVALID(spr_session_save(session, NULL, 0, NULL));
    INVALID(spr_session_save(session, NULL, 10, &n));
    EXPECT(SPR_BUFFER_TOO_SMALL, spr_session_save(session, zeros, 1, &n));
    OK(spr_session_save(session, NULL, 0, &n));
    state = (unsigned char *)malloc(n);
    OK(spr_session_save(session, state, n, &n));

    INVALID(spr_session_restore(NULL, state, n));
    INVALID(spr_session_restore(session, NULL, n));
    INVALID(spr_session_restore(session, state, HUGE_SIZE));
    EXPECT(SPR_BAD_FILE, spr_session_restore(session, NULL, 0));
    EXPECT(SPR_BAD_FILE, spr_session_restore(session, zeros, sizeof(zeros)));
    for (i = 0; i < n; i += 1 + i / 64) {
        state[i] ^= 0x41;
        EXPECT(SPR_BAD_FILE, spr_session_restore(session, state, n));
        state[i] ^= 0x41;
        EXPECT(SPR_BAD_FILE, spr_session_restore(session, state, i));
    }
    OK(spr_session_restore(session, state, n));
    free(state);

    INVALID(spr_session_save_file(NULL, "x"));
    INVALID(spr_session_save_file(session, NULL));
    EXPECT(SPR_ERROR, spr_session_save_file(session, "/no/such/folder/state"));
    EXPECT(SPR_ERROR, spr_session_restore_file(session, "/no/such/folder/state"));
    INVALID(spr_session_restore_file(session, NULL));
    INVALID(spr_session_restore_file(NULL, "x"));
    EXPECT(SPR_BAD_FILE, spr_session_restore_file(session, path));
    EXPECT(SPR_BAD_FILE, spr_session_restore_file(session, folder));
    EXPECT(SPR_BAD_FILE, spr_session_restore_file(session, "/dev/zero"));
    snprintf(file, sizeof(file), "%s/state", folder);
    OK(spr_session_save_file(session, file));
    OK(spr_session_reset(session));
    OK(spr_session_restore_file(session, file));
    OK(spr_sample(session, NULL, &token));
}

int main(int argc, char **argv)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;

    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL FOLDER\n", argv[0]);
        return 2;
    }
    path = argv[1];
    check_versions();
    OK(spr_model_load_file(path, NULL, &model));
    room.context = 64;
    OK(spr_session_new(model, &room, &session));
    check_loading(argv[2]);
    check_model();
    check_tokens();
    check_sessions();
    check_reading();
    check_generating();
    check_abort();
    check_state(argv[2]);
    spr_model_free(model);
    OK(spr_session_reset(session)); /* sessions outlive their model's handle */
    OK(spr_generate(session, "x", NULL, go_on, NULL));
    spr_session_free(session);
    printf("%d failures\n", failures);
    return failures != 0;
}
