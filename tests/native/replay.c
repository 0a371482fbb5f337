/* Runs a fuzz target on every file of a folder, in place of libFuzzer. */
#include <dirent.h>

#include "fuzz.h"

static void replay(const char *path)
{
    static uint8_t data[1 << 16];
    FILE *file = fopen(path, "rb");
    size_t size;
    uint8_t *exact;

    FUZZ_CHECK(file);
    size = fread(data, 1, sizeof data, file);
    FUZZ_CHECK(feof(file));
    fclose(file);
    FUZZ_CHECK((exact = malloc(size ? size : 1)));
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int argc, char **argv)
{
    const struct dirent *entry;
    char path[4096];
    int count = 0;
    DIR *folder;

    FUZZ_CHECK(argc == 2 && (folder = opendir(argv[1])));
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        printf("%s\n", entry->d_name);
        fflush(stdout); /* the one that fails is the last */
        replay(path);
        count++;
    }
    closedir(folder);
    FUZZ_CHECK(count > 0);
    printf("ok: %d inputs\n", count);
    return 0;
}
