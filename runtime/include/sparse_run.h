/* sparse_run.h - run sparse code models from C and C++.
 *
 * A whole program: it prints what a model writes after a prompt.
 *
 *     #include <stdio.h>
 *     #include "sparse_run.h"
 *
 *     static int show(const char *text, size_t length, void *user_data)
 *     {
 *         (void)user_data;
 *         return fwrite(text, 1, length, stdout) == length;
 *     }
 *
 *     int main(int argc, char **argv)
 *     {
 *         spr_session_options options = SPR_SESSION_OPTIONS_INIT;
 *         spr_model *model = NULL;
 *         spr_session *session = NULL;
 *         int failed;
 *
 *         options.context = 1024;
 *         failed = argc != 3 || spr_model_load_file(argv[1], NULL, &model) ||
 *                  spr_session_new(model, &options, &session) ||
 *                  spr_generate(session, argv[2], NULL, show, NULL);
 *         if (failed)
 *             fprintf(stderr, "%s\n", spr_last_error());
 *         spr_session_free(session);
 *         spr_model_free(model);
 *         return failed;
 *     }
 *
 *     cc program.c -lsparse_run -lpthread -ldl -lm
 *
 * What holds for all functions:
 *
 * - They return SPR_OK or why not, and spr_last_error() has a sentence. NULL where something is needed, sizes that
 *   cannot be, and handles that are none are SPR_INVALID_ARGUMENT. Results are written on success only, but for
 *   handles, which are NULL after a failure.
 * - Nothing here prints, ends the process, changes signal handlers, reads the environment, or leaves a thread behind
 *   once models and sessions are freed. What goes wrong inside is SPR_ERROR. Memory that the system refuses, however
 *   little, is SPR_OUT_OF_MEMORY when a model or a session is made; later, small needs are met from a reserve.
 * - Any thread may call. A model may be used by many at once, a session by one at a time.
 * - Texts are UTF-8, and zero-terminated where no length is given. They are only used during the call.
 * - Sizes of results are asked for by giving no buffer: NULL and a capacity of 0.
 * - Callbacks may use other sessions, and ask about the model, but not call functions on their own session.
 * - Options begin with their size, so that programs compiled with an older header go on working with a newer library.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */


#ifndef SPARSE_RUN_H
#define SPARSE_RUN_H

#include <stddef.h>
#include <stdint.h>

/* A loaded model: it does not change, and any number of sessions and threads may use it at once. */
typedef struct spr_model spr_model;

/* A text that a model reads and writes. Calls on one session must not overlap; calls on several may. */
typedef struct spr_session spr_session;

/* What structs are initialised with. */
#define SPR_LOAD_OPTIONS_INIT { sizeof(spr_load_options), 0, SPR_LOAD_AUTO, NULL, NULL, NULL }
#define SPR_SESSION_OPTIONS_INIT { sizeof(spr_session_options), 0, SPR_KV_F16, NULL, NULL }
#define SPR_GENERATE_OPTIONS_INIT \
    { sizeof(spr_generate_options), 256, 0, 0.8f, 40, 0.95f, 0.05f, 1.0f, 64, 0, NULL, 0 }
#define SPR_MODEL_INFO_INIT { sizeof(spr_model_info), 0, 0, 0, 0, 0, 0, 0, 0 }
#define SPR_SESSION_INFO_INIT { sizeof(spr_session_info), 0, 0, 0 }


// Version of this interface. Structs only grow at their ends and functions are only added under the same number.
#define SPR_ABI_VERSION 1

// Weights of a file stay in the file's own pages, those of memory are copied.
#define SPR_LOAD_AUTO 0

// Weights stay where they are: in the file's own pages, which are read when they are needed and shared with other
// processes, or in the caller's memory. Neither may change until the model and its sessions are freed.
#define SPR_LOAD_MAP 1

// A copy in huge pages where the system has them: faster to run, safe from changes, takes the file's size in memory.
#define SPR_LOAD_COPY 2

// Keys and values as halves, 2 bytes each.
#define SPR_KV_F16 0

// Keys and values as singles, 4 bytes each.
#define SPR_KV_F32 1

// Keys and values as bytes with a scale for every 32 of them: little more than half the memory of halves.
#define SPR_KV_Q8 2

// The prompt continues what the session has read and written so far, instead of being the whole text.
#define SPR_GENERATE_CONTINUE 1

// Special tokens such as <|im_end|> in the prompt are what they stand for, instead of text. Not for texts from users.
#define SPR_GENERATE_SPECIAL 2

// Begin with the token that texts of this model begin with, if it has one.
#define SPR_TOKENIZE_BEGIN 1

// Special tokens such as <|im_end|> are what they stand for, instead of text. Not for texts from users.
#define SPR_TOKENIZE_SPECIAL 2

// What a function returns; `spr_last_error` has the sentence.
typedef enum spr_status {
    // Done.
    SPR_OK = 0,
    // Anything else, such as a file that cannot be opened.
    SPR_ERROR = 1,
    // An argument makes no sense, or not now.
    SPR_INVALID_ARGUMENT = 2,
    // A model file or saved state is not what it should be.
    SPR_BAD_FILE = 3,
    // Memory could not be had.
    SPR_OUT_OF_MEMORY = 4,
    // A callback asked to stop.
    SPR_CANCELLED = 5,
    // The buffer is too small; the size that is needed has been written.
    SPR_BUFFER_TOO_SMALL = 6,
    // The tokens do not fit in the session's context.
    SPR_CONTEXT_FULL = 7,
    // Another call on the same session has not returned yet.
    SPR_BUSY = 8,
} spr_status;

// Told while a model is loaded how much of it is there, from 0 to 1. Returns 1 to go on, 0 to stop.
typedef int (*spr_progress_callback)(float fraction, void *user_data);

// Told in a sentence what the library does, for a log. Comes on the thread of the call that it is about.
typedef void (*spr_log_callback)(const char *text, void *user_data);

// How a model is loaded and run. Initialise with `SPR_LOAD_OPTIONS_INIT`, then change what differs.
typedef struct spr_load_options {
    // sizeof(spr_load_options)
    size_t struct_size;
    // Threads that a call works on, the calling one among them; 0: one a core.
    uint32_t threads;
    // One of `SPR_LOAD_...`
    uint32_t load;
    // May be NULL.
    spr_progress_callback progress;
    // May be NULL; used as long as the model and its sessions live.
    spr_log_callback log;
    // For `progress` and `log`.
    void *user_data;
} spr_load_options;

// Asked before every token, and every 64 tokens of a prompt. Returns 0 to go on, 1 to abort.
typedef int (*spr_abort_callback)(void *user_data);

// How a session is set up. Initialise with `SPR_SESSION_OPTIONS_INIT`, then change what differs.
typedef struct spr_session_options {
    // sizeof(spr_session_options)
    size_t struct_size;
    // Tokens of a text at most, which memory is taken for; 0: as many as the model was made for, often very many.
    uint32_t context;
    // One of `SPR_KV_...`
    uint32_t kv;
    // May be NULL; used as long as the session lives.
    spr_abort_callback abort;
    // For `abort`.
    void *user_data;
} spr_session_options;

// What there is to know of a model. Initialise with `SPR_MODEL_INFO_INIT`.
typedef struct spr_model_info {
    // sizeof(spr_model_info)
    size_t struct_size;
    // Bytes of the file.
    uint64_t file_bytes;
    // Bytes of weights that are read for a token.
    uint64_t bytes_per_token;
    // Tokens of the vocabulary: how many logits there are.
    uint32_t vocabulary;
    // Positions that it was made for.
    uint32_t context;
    // Decoder layers.
    uint32_t layers;
    // Threads that a call works on.
    uint32_t threads;
    // 1 if `spr_infill` can be used.
    uint32_t can_infill;
    // 0
    uint32_t reserved;
} spr_model_info;

// What there is to know of a session. Initialise with `SPR_SESSION_INFO_INIT`.
typedef struct spr_session_info {
    // sizeof(spr_session_info)
    size_t struct_size;
    // Bytes of `spr_session_save` at the moment.
    uint64_t state_bytes;
    // Tokens there is room for.
    uint32_t context;
    // Tokens of the text so far.
    uint32_t position;
} spr_session_info;

// What is generated. Initialise with `SPR_GENERATE_OPTIONS_INIT`, then change what differs.
typedef struct spr_generate_options {
    // sizeof(spr_generate_options)
    size_t struct_size;
    // Tokens at most.
    uint32_t max_tokens;
    // `SPR_GENERATE_...`, added together.
    uint32_t flags;
    // Randomness; 0: always the most likely token.
    float temperature;
    // Choose among so many most likely tokens; 0: off.
    uint32_t top_k;
    // Choose among the most likely tokens that together are so likely; 1: off.
    float top_p;
    // Leave out tokens less likely than this share of the most likely one; 0: off.
    float min_p;
    // Make tokens that were used lately less likely; 1: off.
    float repeat_penalty;
    // How many tokens back the penalty looks.
    uint32_t repeat_last_n;
    // Same seed, same text.
    uint64_t seed;
    // Texts that end generation and are not part of it, UTF-8, zero-terminated; may be NULL.
    const char *const *stop;
    // How many.
    size_t stop_count;
} spr_generate_options;

// Receives text as it comes: complete UTF-8 characters, `length` bytes, not zero-terminated, valid during the call.
// Returns 1 to go on, 0 to stop.
typedef int (*spr_text_callback)(const char *text, size_t length, void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The interface that the library has: not `SPR_ABI_VERSION` if it is another library than the header's.
uint32_t spr_abi_version(void);

// Version of the library, such as "0.1.0".
const char *spr_version(void);

// What went wrong in the last call on this thread that did not return `SPR_OK`: a sentence in UTF-8, empty if none
// did. Valid until the next call on this thread.
const char *spr_last_error(void);

// What a status means, in a few words; of a number that is none, "unknown status".
const char *spr_status_text(uint32_t status);

// Memory in bytes that the model at `path` and one session of it need, to be asked before loading it: the file, which
// unless it is copied the system can drop and read again, plus what is allocated. Further sessions take what is
// allocated for one. Both options may be NULL.
enum spr_status spr_memory_needed(const char *path,
                                  const struct spr_load_options *load,
                                  const struct spr_session_options *session,
                                  uint64_t *bytes);

// Loads the sparse model file at `path` (UTF-8). `options` may be NULL. On success `*model` is to be freed with
// `spr_model_free`; on failure it is NULL.
enum spr_status spr_model_load_file(const char *path,
                                    const struct spr_load_options *options,
                                    spr_model **model);

// The same from an open file, such as one that a sandbox was given: a regular one, which is read from its beginning
// wherever its offset is. It stays the caller's to close, at once if he likes.
enum spr_status spr_model_load_fd(int fd,
                                  const struct spr_load_options *options,
                                  spr_model **model);

// The same from the `size` bytes of a model file in memory: a copy, after which they are no longer needed, or with
// `SPR_LOAD_MAP` those bytes themselves, which are best aligned to 64.
enum spr_status spr_model_load_memory(const void *data,
                                      size_t size,
                                      const struct spr_load_options *options,
                                      spr_model **model);

// Frees a model; NULL is ignored. Its sessions stay usable. No call that was given the model itself may be running.
void spr_model_free(spr_model *model);

// Fills in `info`, of which `struct_size` is set already.
enum spr_status spr_model_get_info(const spr_model *model, struct spr_model_info *info);

// BLAKE3 of the model file's contents in hexadecimal: the name of exactly this model. Valid as long as the model; of
// what is no model, an empty text.
const char *spr_model_identity(const spr_model *model);

// Makes a session of `model`, with all the memory that it will need. `options` may be NULL. On success `*session` is to
// be freed with `spr_session_free`; on failure it is NULL.
enum spr_status spr_session_new(const spr_model *model,
                                const struct spr_session_options *options,
                                spr_session **session);

// Frees a session; NULL is ignored. No call that uses it may be running, not even the one that a callback is called by.
void spr_session_free(spr_session *session);

// Fills in `info`, of which `struct_size` is set already.
enum spr_status spr_session_get_info(const spr_session *session, struct spr_session_info *info);

// Reads `count` tokens after those so far. Aborted, the session has those of the first that were read. Where the model's
// logits are not finite, which is a damaged file, it is `SPR_BAD_FILE`, and the session has read nothing.
enum spr_status spr_eval(spr_session *session,
                         const uint32_t *tokens,
                         size_t count);

// Points `*logits` to the logits after the last token that was read, one a token of the vocabulary, and writes their
// number to `*count`. Those of tokens that the model cannot write are negative infinity. Valid until the next call that
// reads or writes in this session.
enum spr_status spr_logits(const spr_session *session,
                           const float **logits,
                           size_t *count);

// Chooses a token to come after those so far, and writes it to `*token`; `spr_eval` reads it. Of `options`, which may be
// NULL, what is random counts; as long as that stays the same, calls go on with the same random numbers.
enum spr_status spr_sample(spr_session *session,
                           const struct spr_generate_options *options,
                           uint32_t *token);

// Forgets all but the first `position` tokens; 0 begins a new text. Unless all were forgotten, the next call must be one
// that reads. With a model whose layers see only a window there may be less left: `*position_left`, which may be NULL.
enum spr_status spr_session_truncate(spr_session *session,
                                     size_t position,
                                     size_t *position_left);

// Begins a new text, and a new sequence of random numbers.
enum spr_status spr_session_reset(spr_session *session);

// Continues `prompt` (UTF-8, zero-terminated) and hands the text to `callback`. The prompt is the whole text, of which
// what the session has read already is not read again; or with `SPR_GENERATE_CONTINUE`, what comes next. `options` may
// be NULL. If a callback asked to stop the status is `SPR_CANCELLED`, and the session can be used on.
enum spr_status spr_generate(spr_session *session,
                             const char *prompt,
                             const struct spr_generate_options *options,
                             spr_text_callback callback,
                             void *user_data);

// Writes what stands between `prefix` and `suffix` (UTF-8, zero-terminated), as `spr_generate` does. For models that
// were trained to fill in, as `spr_model_get_info` tells.
enum spr_status spr_infill(spr_session *session,
                           const char *prefix,
                           const char *suffix,
                           const struct spr_generate_options *options,
                           spr_text_callback callback,
                           void *user_data);

// Writes the tokens of the `length` bytes of `text` (UTF-8) to `tokens`, which has room for `capacity`, and their
// number to `*count`. With NULL and 0 only the number is written. `flags` are `SPR_TOKENIZE_...`, added together.
enum spr_status spr_tokenize(const spr_model *model,
                             const char *text,
                             size_t length,
                             uint32_t flags,
                             uint32_t *tokens,
                             size_t capacity,
                             size_t *count);

// Writes the text of `count` tokens to `text`, which has room for `capacity` bytes, and its length to `*length`. With
// NULL and 0 only the length is written. The text is not zero-terminated, and may begin or end within a character, as
// tokens do; special tokens have none.
enum spr_status spr_detokenize(const spr_model *model,
                               const uint32_t *tokens,
                               size_t count,
                               char *text,
                               size_t capacity,
                               size_t *length);

// 1 if the model ends a text with this token; 0 if not, or if there is no such token or model.
int spr_token_is_end(const spr_model *model, uint32_t token);

// Writes the session's state (text, keys, values, logits) to `buffer`, which has room for `capacity` bytes, and its
// size to `*size`. With NULL and 0 only the size is written.
enum spr_status spr_session_save(const spr_session *session,
                                 void *buffer,
                                 size_t capacity,
                                 size_t *size);

// Makes the session what was saved, in the same or another session of the same model file. What is damaged, forged, or
// of another model is refused, and changes nothing.
enum spr_status spr_session_restore(spr_session *session,
                                    const void *data,
                                    size_t size);

// As `spr_session_save`, to the file at `path` (UTF-8), which has its name once it is complete.
enum spr_status spr_session_save_file(const spr_session *session, const char *path);

// As `spr_session_restore`, from the file at `path` (UTF-8).
enum spr_status spr_session_restore_file(spr_session *session, const char *path);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SPARSE_RUN_H */
