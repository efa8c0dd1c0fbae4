/* The loop for one instruction set: LOOP_ISA is the file with its vector operations. */
#define CR_BODY "loop/body.h"
#include LOOP_ISA
