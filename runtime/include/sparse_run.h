/* sparse_run.h - run sparse models from C.
 *
 * Link with libsparse_run.a and the system libraries that the README names. Every function may be called from
 * any thread; one model may generate on several threads at once. Nothing here prints, ends the process, reads
 * the environment or changes signal handlers.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SPARSE_RUN_H
#define SPARSE_RUN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded model. */
typedef struct spr_model spr_model;

/* What a function returns. spr_last_error() has the sentence. */
typedef enum spr_status {
    SPR_OK = 0,
    SPR_ERROR = 1,           /* anything else */
    SPR_INVALID_ARGUMENT = 2, /* an argument makes no sense */
    SPR_BAD_FILE = 3,        /* the model file is not what it should be */
    SPR_OUT_OF_MEMORY = 4,
    SPR_CANCELLED = 5        /* the callback asked to stop */
} spr_status;

/* How a model is run. Initialise with SPR_LOAD_OPTIONS_INIT, then change what differs. */
typedef struct spr_load_options {
    size_t struct_size; /* sizeof(spr_load_options) */
    uint32_t threads;   /* 0: one a core */
} spr_load_options;
#define SPR_LOAD_OPTIONS_INIT { sizeof(spr_load_options), 0 }

/* What is generated. Initialise with SPR_GENERATE_OPTIONS_INIT, then change what differs. */
typedef struct spr_generate_options {
    size_t struct_size;      /* sizeof(spr_generate_options) */
    uint32_t max_tokens;     /* tokens at most */
    uint32_t context;        /* positions; 0: as many as prompt and max_tokens need */
    float temperature;       /* 0: always the most likely token */
    uint32_t top_k;          /* 0: off */
    float top_p;             /* 1: off */
    float min_p;             /* 0: off */
    float repeat_penalty;    /* 1: off */
    uint32_t repeat_last_n;
    uint64_t seed;
    const char *const *stop; /* texts that end generation, UTF-8; may be NULL */
    size_t stop_count;
} spr_generate_options;
#define SPR_GENERATE_OPTIONS_INIT \
    { sizeof(spr_generate_options), 256, 0, 0.8f, 40, 0.95f, 0.05f, 1.0f, 64, 0, NULL, 0 }

/* Receives text as it comes: complete UTF-8 characters, `length` bytes, not zero-terminated, valid during the
 * call. Return 1 to go on, 0 to stop. */
typedef int (*spr_text_callback)(const char *text, size_t length, void *user_data);

/* Memory in bytes that the model at `path` needs with `context` positions (0: the model's own): the file, which
 * is mapped and which the system can drop and read again, plus what is allocated. */
spr_status spr_memory_needed(const char *path, uint32_t context, uint64_t *bytes);

/* Opens the sparse model file at `path` (UTF-8). `options` may be NULL. On success *model is to be freed with
 * spr_model_free; on failure it is NULL. */
spr_status spr_model_load_file(const char *path, const spr_load_options *options, spr_model **model);

/* Continues `prompt` (UTF-8, zero-terminated) and hands the text to `callback`. `options` may be NULL. */
spr_status spr_generate(const spr_model *model, const char *prompt, const spr_generate_options *options,
                        spr_text_callback callback, void *user_data);

/* What went wrong in the last call on this thread that did not return SPR_OK; an empty text if none did. Valid
 * until the next call on this thread. */
const char *spr_last_error(void);

/* Frees a model; NULL is ignored. No call that uses it may be running. */
void spr_model_free(spr_model *model);

/* Version of the library, such as "0.1.0". */
const char *spr_version(void);

#ifdef __cplusplus
}
#endif

#endif
