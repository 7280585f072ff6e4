/* Stands in for a native twin: says how it was started, and which descriptors it was left. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *value = getenv("TWIN");
    char self[4096] = "";
    printf("twin");
    for (int i = 0; i < argc; i++)
        printf(" [%s]", argv[i]);
    if (value)
        printf(" TWIN=%s", value);
    printf(" uid=%d euid=%d secure=%ld", (int)getuid(), (int)geteuid(), (long)getauxval(AT_SECURE));
    for (int i = 3; i < 10; i++)
        if (fcntl(i, F_GETFD) >= 0)
            printf(" descriptor %d", i);
    if (argc > 1 && !strcmp(argv[1], "self") && readlink("/proc/self/exe", self, sizeof self - 1) > 0)
        printf(" is %s", self);
    printf("\n");
    return 7;
}
