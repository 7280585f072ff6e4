/* Starts programs in ways that a shell cannot. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

extern char **environ;

/* CAP_NET_RAW, permitted and effective: struct vfs_cap_data of linux/capability.h, version 2. */
static const unsigned char capability[20] = { 1, 0, 0, 2, 0, 0x20 };

int main(int argc, char **argv)
{
    char *none[] = { NULL }, *some[] = { "name", "argument", NULL };
    const char *how = argv[1], *what = argv[argc - 1];
    if (!strcmp(how, "without-arguments"))
        execve(what, none, environ);
    if (!strcmp(how, "in-folder"))
        syscall(SYS_execveat, open(argv[2], O_PATH | O_DIRECTORY), what, some, environ, 0);
    if (!strcmp(how, "descriptor"))
        syscall(SYS_execveat, open(what, O_PATH), "", some, environ, AT_EMPTY_PATH);
    if (!strcmp(how, "closing-descriptor"))
        syscall(SYS_execveat, open(what, O_PATH | O_CLOEXEC), "", some, environ, AT_EMPTY_PATH);
    if (!strcmp(how, "give-capability"))
        return setxattr(what, "security.capability", capability, sizeof capability, 0) ? perror(what), 1 : 0;
    perror(how);
    return 1;
}
