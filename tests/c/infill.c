/* Writes what stands between two texts: infill MODEL PREFIX SUFFIX N
 *
 * The model is read into memory first, as a program would that has it built in. */
#include <stdio.h>
#include <stdlib.h>

#include "sparse_run.h"

static int show(const char *text, size_t length, void *user_data)
{
    (void)user_data;
    return fwrite(text, 1, length, stdout) == length;
}

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long end = -1;

    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        end = ftell(file);
    if (end > 0)
        data = malloc((size_t)end);
    if (data != NULL) {
        rewind(file);
        *size = fread(data, 1, (size_t)end, file);
    }
    if (file != NULL)
        fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_model *model = NULL;
    spr_session *session = NULL;
    size_t size = 0;
    void *data;
    spr_status status;

    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL PREFIX SUFFIX N\n", argv[0]);
        return 2;
    }
    data = read_file(argv[1], &size);
    status = spr_model_load_memory(data, size, NULL, &model);
    free(data); /* it was copied */
    room.context = 512;
    if (status == SPR_OK)
        status = spr_session_new(model, &room, &session);
    options.temperature = 0;
    options.max_tokens = (uint32_t)strtoul(argv[4], NULL, 10);
    if (status == SPR_OK)
        status = spr_infill(session, argv[2], argv[3], &options, show, NULL);
    if (status != SPR_OK)
        fprintf(stderr, "%s\n", spr_last_error());
    spr_session_free(session);
    spr_model_free(model);
    return status == SPR_OK ? 0 : 1;
}
