/* Nothing grows: cycles MODEL
 *
 * Loads, runs and frees a model 3,000 times, and eight at once for some of them. Prints by how many KiB the memory of the
 * process grew from the second 1,000 times to the third, and its threads at the end. In the first malloc makes its arenas for
 * threads; later what it keeps of stacks comes and goes, so the least of each 1,000 counts. */
#include <stdio.h>
#include <string.h>

#include "sparse_run.h"

static int go_on(const char *text, size_t length, void *user_data)
{
    (void)text, (void)length, (void)user_data;
    return 1;
}

/* What the system says of this process under `key`. */
static long status_of(const char *key)
{
    char line[256];
    long value = -1;
    FILE *status = fopen("/proc/self/status", "r");

    while (status != NULL && fgets(line, sizeof(line), status) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            sscanf(line + strlen(key), "%ld", &value);
    if (status != NULL)
        fclose(status);
    return value;
}

static int cycle(const char *path, int models)
{
    spr_load_options load = SPR_LOAD_OPTIONS_INIT;
    spr_session_options room = SPR_SESSION_OPTIONS_INIT;
    spr_generate_options options = SPR_GENERATE_OPTIONS_INIT;
    spr_model *model[8] = { NULL };
    spr_session *session[8] = { NULL };
    int i, failed = 0;

    load.threads = 2;
    load.load = models % 2 == 0 ? SPR_LOAD_MAP : SPR_LOAD_COPY;
    room.context = 64;
    options.max_tokens = 2;
    for (i = 0; i < models && !failed; i++)
        failed = spr_model_load_file(path, &load, &model[i]) || spr_session_new(model[i], &room, &session[i]) ||
                 spr_generate(session[i], "def f", &options, go_on, NULL);
    if (failed)
        fprintf(stderr, "%s\n", spr_last_error());
    for (i = 0; i < models; i++) {
        spr_model_free(model[i]);
        spr_session_free(session[i]);
    }
    return failed;
}

int main(int argc, char **argv)
{
    long least[3], now;
    int i;

    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    for (i = 0; i < 3000; i++) {
        if (cycle(argv[1], i % 50 == 0 ? 8 : 1))
            return 1;
        now = status_of("VmRSS:");
        if (i % 1000 == 0 || now < least[i / 1000])
            least[i / 1000] = now;
    }
    printf("%ld KiB, %ld threads\n", least[2] - least[1], status_of("Threads:"));
    return 0;
}
