/* What `--init` puts before a container's command, for commands that are no good as process 1, and a pod's own process 1; knows
 * nothing of monitors.
 *
 * This program, mounted into the container and run as `docker-init -- COMMAND ARGUMENT..`. */

/* Run the command as a child, hand every signal on to it, reap whatever the container's other processes leave, and end with it:
 * with its exit code, or 128 and the signal that killed it; 127: there is no such program, 126: it cannot be run. */
int init_run(char **command);

/* Do nothing but reap, until SIGTERM or SIGINT: what keeps a pod's namespaces. Run as `pause`. */
int init_pause(void);
