/* user_command.h - the command `foresay user`: add, list, key, remove; beside a running server or without one. */
#ifndef FORESAY_USER_COMMAND_H
#define FORESAY_USER_COMMAND_H

/* argv[0] is "user". The exit status: 0 fine; 1 it could not be done; 2 the command line is wrong. */
int user_command(int argc, char **argv);

#endif
