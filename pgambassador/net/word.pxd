cdef class Word:
    cdef public bint _asyncio_future_blocking
    cdef object loop
    cdef object wake
    cdef bint cancelled
    # The task that awaits it has been told to wait.
    cdef bint waited

    cpdef bint heard(self) except -1
