/* Stands in for an OCI runtime in `./dev bench runtime`: a start with it costs what the engine costs. Its containers wait for their
 * end; of everything else it is asked it does nothing. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
    const char *pid_file = NULL;
    for (int i = 1; i + 1 < count; i++)
        if (!strcmp(arguments[i], "--pid-file")) pid_file = arguments[i + 1];
    if (!pid_file) return 0;
    pid_t child = fork();
    if (!child)
        for (;;) pause();
    FILE *file = fopen(pid_file, "w");
    return child < 0 || !file || fprintf(file, "%d", child) < 0 || fclose(file);
}
