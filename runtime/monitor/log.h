/* A container's log on disk, line by line; knows nothing of containers.
 *
 * json-file: {"log":"line\\n","stream":"stdout","time":"2006-01-02T15:04:05.999999999Z"}, escaped as Docker does.
 * cri: TIME stdout F line; P instead of F for a piece of a line that goes on.
 * A line is split every PIECE bytes; its pieces, and what the end leaves unfinished, have no newline (P). */
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum { PIECE = 16384 /* bytes of a line before it is split: Docker's and containerd's */ };

/* One stream's line, as far as it has come. */
struct line {
    uint8_t stream; /* 1 stdout, 2 stderr */
    bool split;     /* its beginning is in the log already */
    uint32_t length;
    struct timespec since; /* of that beginning: the pieces of a line have one time */
    char text[PIECE];
};

/* Open or make the file; the format none: there is no log. After `most` bytes (0: never) it is rotated: PATH becomes PATH.1 and so
 * on, `files` altogether; 1: it is emptied. -1 and errno when it cannot be had. */
int log_open(const char *format, const char *path, int64_t most, long files);

/* Somebody has moved the file away: go on in a new one. -1 and errno when it cannot be had now. */
int log_reopen(void);

/* Write what has come; a disk that does not take it costs entries, and nothing else. */
void log_text(struct line *from, const char *text, uint32_t length);

/* No more comes of this stream. */
void log_rest(struct line *from);

void log_close(void);
