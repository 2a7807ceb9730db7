"""Who is it: SCRAM, md5 and trust, towards clients and towards servers."""
