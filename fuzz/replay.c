/* Feeds the files of a folder (its seeds, or inputs that crashed once) to a fuzz target, without a fuzzer: any compiler,
 * any sanitizer, every test run. Prints a name before each file only with REPLAY_VERBOSE set. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long size = -1;
    int status = -1;

    if (f && fseek(f, 0, SEEK_END) == 0)
        size = ftell(f);
    if (size < 0 || fseek(f, 0, SEEK_SET) != 0)
        goto done;
    bytes = malloc((size_t)size + !size); /* of exactly this size, so that a sanitizer sees the first byte too far */
    if (!bytes || fread(bytes, 1, (size_t)size, f) != (size_t)size)
        goto done;
    if (getenv("REPLAY_VERBOSE"))
        fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(bytes, (size_t)size);
    status = 0;
done:
    if (status != 0)
        perror(path);
    free(bytes);
    if (f)
        fclose(f);
    return status;
}

int main(int argc, char **argv)
{
    int n = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);

        if (!folder) {
            perror(argv[i]);
            return 1;
        }
        for (struct dirent *entry; (entry = readdir(folder));) {
            char path[4096];

            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            failed += replay(path) != 0;
            n++;
        }
        closedir(folder);
    }
    printf("%d inputs, %d could not be read\n", n, failed);
    return n == 0 || failed > 0;
}
