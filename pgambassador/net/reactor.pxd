# How many sockets of clients are readable in this turn, and who wants to be called when all have been heard.
cdef int readable
cdef list behind
