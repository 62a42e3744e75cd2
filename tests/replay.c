/*
 * Feeds every file of a corpus folder to one fuzz target, so that what fuzzing once found stays found by any compiler:
 *
 *     replay FOLDER ... --> each file --> LLVMFuzzerTestOneInput
 *
 * Ends with 0 when all were read and there was at least one; a bad input ends the process inside the target.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int replay_file(const char *path)
{
    struct stat st;
    uint8_t *data;
    size_t len;
    FILE *f = fopen(path, "rb");

    if (f == NULL || fstat(fileno(f), &st) < 0) {
        perror(path);
        return -1;
    }
    /* Exactly as long as the file, so that a sanitizer sees the first byte read past its end. */
    len = (size_t)st.st_size;
    data = malloc(len ? len : 1);
    if (data == NULL || fread(data, 1, len, f) != len) {
        perror(path);
        return -1;
    }
    fclose(f);
    LLVMFuzzerTestOneInput(data, len);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long count = 0;
    int i;

    for (i = 1; i < argc; i++) {
        struct dirent *e;
        DIR *d = opendir(argv[i]);

        if (d == NULL) {
            perror(argv[i]);
            return 1;
        }
        while ((e = readdir(d)) != NULL) {
            char path[1024];

            if (e->d_name[0] == '.')
                continue;
            if (snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name) >= (int)sizeof path) {
                fprintf(stderr, "%s/%s: the path is too long\n", argv[i], e->d_name);
                return 1;
            }
            if (replay_file(path) < 0)
                return 1;
            count++;
        }
        closedir(d);
    }
    printf("%s: %lu inputs replayed\n", argv[0], count);
    return count > 0 ? 0 : 1;
}
