# Perl's DBD::Pg: named statements on the server, COPY, asynchronous queries and their cancel.

use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types :async);
use Time::HiRes qw(time sleep);

binmode STDOUT, ':utf8';
$| = 1;
my $TABLE  = 'dbd_pg';
my $failed = 0;
my ($client, $other);

sub step {
    my ($name, $work) = @_;
    if (eval { $work->(); 1 }) {
        print "ok $name\n";
        return;
    }
    $failed = 1;
    (my $why = "$@") =~ s/\n/ | /g;
    print "FAILED $name: $why\n";
}

sub same {
    my ($found, $expected) = @_;
    $_ //= '(undef)' for $found, $expected;
    die "found $found, expected $expected\n" if $found ne $expected;
}

sub fails {
    my ($sqlstate, $handle, $work) = @_;
    die "there was no error\n" if eval { $work->(); 1 };
    same($handle->state, $sqlstate);
}

sub reach {
    my ($more, $password, %options) = @_;
    return DBI->connect("dbi:Pg:$more", $ENV{PGUSER}, $password // $ENV{PGPASSWORD},
        { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, %options });
}

sub value {
    my ($handle, $sql, @parameters) = @_;
    return ($handle->selectrow_array($sql, undef, @parameters))[0];
}

sub wait_until {
    my ($what, $condition) = @_;
    my $end = time + 10;
    until ($condition->()) {
        die "no $what within ten seconds\n" if time > $end;
        sleep 0.005;
    }
}

# Do the work while the other client holds a transaction, and so a connection of its own.
sub crowded {
    my ($work) = @_;
    $other->begin_work;
    value($other, 'select 1');
    $work->();
    $other->commit;
}

step 'connect', sub {
    $client = reach('');
    $other  = reach('');
    same(value($client, 'select current_user::text'), $ENV{PGUSER});
    $client->do("drop table if exists $TABLE");
    $client->do("create table $TABLE (id int primary key, name text)");
};

# A login that fails has no result, so that the message has to do.
step 'unknown database', sub {
    die "there was no error\n" if eval { reach('dbname=no_such_database'); 1 };
    die $@ if $@ !~ /database "no_such_database" does not exist/;
};

step 'wrong password', sub {
    die "there was no error\n" if eval { reach('', 'wrong'); 1 };
    die $@ if $@ !~ /password authentication failed for user/;
};

step 'transaction with a savepoint', sub {
    $client->begin_work;
    $client->do("insert into $TABLE values (?, ?)", undef, 1, 'kept');
    $client->pg_savepoint('s');
    fails('23505', $client, sub { $client->do("insert into $TABLE values (1, 'twice')") });
    fails('25P02', $client, sub { value($client, 'select 1') });
    $client->pg_rollback_to('s');
    $client->do("insert into $TABLE values (2, 'kept')");
    $client->commit;
    $client->begin_work;
    $client->do("delete from $TABLE");
    $client->rollback;
    same(value($client, "select count(*) from $TABLE"), 2);
    same($client->ping, 1);
};

step 'prepared statements', sub {
    my %pids;
    my $statement = $client->prepare('select pg_backend_pid(), ?::int * 2', { pg_prepare_now => 1 });
    for my $turn (0 .. 19) {
        my $work = sub {
            $statement->execute($turn);
            my ($pid, $twice) = $statement->fetchrow_array;
            same($twice, $turn * 2);
            $pids{$pid} = 1;
        };
        $turn % 2 ? crowded($work) : $work->();
    }
    print 'connections ', scalar(keys %pids), "\n";
    my $named = $client->prepare("select ?::text || ' dbd_pg'");
    $client->begin_work;
    for my $turn (0 .. 4) {
        $named->execute('named');
        same($named->fetchrow_array, 'named dbd_pg');
    }
    my $count = 'select count(*) from pg_prepared_statements where not from_sql and statement = ?';
    same(value($client, $count, q{select $1::text || ' dbd_pg'}), 1);
    $client->commit;
    our @kept = ($statement, $named);    # this driver deallocates what nobody holds, by SQL
};

step 'deallocate by SQL in a transaction', sub {
    my $client = reach('');
    $client->begin_work;
    for my $number (1 .. 3) {
        my $statement = $client->prepare("insert into $TABLE values (?, ?)", { pg_prepare_now => 1 });
        $statement->execute($number + 10, 'in a transaction');
    }
    $client->commit;
    same(value($client, "select count(*) from $TABLE where id between 11 and 13"), 3);
    $client->disconnect;
};

step 'deallocate by SQL outside', sub {
    my $client = reach('');
    my @said;
    local $SIG{__WARN__} = sub { push @said, @_ };
    for my $number (1 .. 3) {
        my $statement = $client->prepare("insert into $TABLE values (?, ?)", { pg_prepare_now => 1 });
        $statement->execute($number + 20, 'outside of a transaction');
    }
    same(value($client, "select count(*) from $TABLE where id between 21 and 23"), 3);
    same("@said", '');
    $client->disconnect;
};

step 'another type for a parameter', sub {
    my $client = reach('');
    my $statement = $client->prepare('select length(?)', { pg_prepare_now => 1 });
    for my $type (PG_TEXT, PG_BYTEA, PG_TEXT) {
        $statement->bind_param(1, 'four', { pg_type => $type });
        $statement->execute;
        same($statement->fetchrow_array, 4);
        $statement->finish;
    }
    $client->disconnect;
};

step 'batch with an error in the middle', sub {
    our $insert = $client->prepare("insert into $TABLE values (?, ?)");
    my @status;
    $client->begin_work;
    die "there was no error\n"
        if eval { $insert->execute_array({ ArrayTupleStatus => \@status }, [100, 101, 1, 102], 'batch'); 1 };
    $client->rollback;
    same(join(' ', map { ref $_ ? $_->[2] : $_ } @status), '1 1 23505 25P02');
    same($insert->execute_array({}, [100 .. 199], 'batch'), 100);
    same(value($client, "select count(*) from $TABLE where id >= 100"), 100);
};

step 'several statements in one query', sub {
    $client->do("insert into $TABLE values (50); select 1; select 2");
    fails('22012', $client, sub { $client->do("insert into $TABLE values (51); select 1/0; select 2") });
    same(value($client, "select count(*) from $TABLE where id in (50, 51)"), 1);
};

step 'copy in', sub {
    $client->do("copy $TABLE from stdin");
    $client->pg_putcopydata(($_ + 1000) . "\tname $_ \\\\ ü\n") for 0 .. 4999;
    same($client->pg_putcopyend, 1);
    fails('22P02', $client, sub {
        $client->do("copy $TABLE from stdin");
        $client->pg_putcopydata("9\tgood\nnot a number\tbad\n");
        $client->pg_putcopyend;
    });
    same(value($client, "select count(*) from $TABLE where id >= 1000 or id = 9"), 5000);
};

step 'copy out', sub {
    $client->do("copy (select * from $TABLE where id >= 1000 order by id) to stdout");
    my ($line, @lines) = ('');
    push @lines, $line while $client->pg_getcopydata($line) >= 0;
    same(scalar @lines, 5000);
    same($lines[4999], "5999\tname 4999 \\\\ ü\n");
};

step 'cancel', sub {
    $client->do('select pg_sleep(60) /* dbd_pg */', { pg_async => PG_ASYNC });
    my $running = q{select count(*) from pg_stat_activity where state = 'active' and query like ?};
    wait_until('running query', sub { value($other, $running, 'select pg_sleep(60) /* dbd_pg%') });
    same($client->pg_cancel, 1);
    wait_until('end of the query', sub { !value($other, $running, 'select pg_sleep(60) /* dbd_pg%') });
    same(value($client, q{select 'goes on'}), 'goes on');
    $client->do('set statement_timeout to 50');
    fails('57014', $client, sub { value($client, 'select pg_sleep(60)') });
    $client->do('reset statement_timeout');
};

step 'errors', sub {
    for (1 .. 3) {
        fails('23505', $client, sub { $client->do("insert into $TABLE values (?)", undef, 1) });
        fails('42601', $client, sub { $client->do('selekt 1') });
        fails('42P01', $client, sub { value($client, 'select * from no_such_table where id = ?', 1) });
        fails('22012', $client, sub { value($client, 'select 1 / ?::int', 0) });
    }
    same(value($client, q{select 'goes on'}), 'goes on');
};

step 'types', sub {
    $client->do(q{set timezone to 'UTC'});
    my @values = (
        '9007199254740993', '12345678901234567890.123456789', "Grüße 😀 ' \\ \"", "\x00\x01'\\\xff",
        '2020-02-29 12:34:56.789+00', '{"a": [1, null, "ü"]}', undef, '1.5', 1
    );
    my @casts = qw(int8 numeric text bytea timestamptz jsonb text float8 bool);
    our $statement = $client->prepare('select ' . join ', ', map { "?::$_" } @casts);
    $statement->bind_param(4, undef, { pg_type => PG_BYTEA });
    for (1 .. 3) {
        $statement->execute(@values);
        my @row = $statement->fetchrow_array;
        same($row[$_], $values[$_]) for 0 .. $#values;
    }
    same(join(',', map { $_ // 'null' } @{ value($client, 'select ?::int[]', [1, undef, 3]) }), '1,null,3');
    $client->do('reset timezone');
};

step 'listen and notify', sub {
    $client->do('listen dbd_pg');
    value($other, q{select pg_notify('dbd_pg', ?)}, 'first');
    $other->do(q{notify dbd_pg, 'second'});
    my @heard;
    wait_until('notifications', sub {
        my $notification = $client->pg_notifies;
        push @heard, $notification->[2] if $notification;
        return @heard == 2;
    });
    same("@heard", 'first second');
    $client->do('unlisten *');
};

step '50,000 rows', sub {
    my $query = q{select n, n::text || ' row' from generate_series(1, ?::int) n};
    my $rows  = $client->selectall_arrayref($query, undef, 50_000);
    same(scalar @$rows, 50_000);
    same($rows->[49_999][1], '50000 row');
};

step 'settings and temporary tables', sub {
    $client->do(q{set timezone to 'Asia/Tokyo'});
    crowded(sub { same(value($client, 'show timezone'), 'Asia/Tokyo') });
    die "it is the other's too\n" if value($other, 'show timezone') eq 'Asia/Tokyo';
    $client->do('reset timezone');
    $client->do('create temporary table perl_temporary (id int)');
    $client->do('insert into perl_temporary values (1)');
    same(value($client, 'select count(*) from perl_temporary'), 1);
    fails('42P01', $other, sub { value($other, 'select * from perl_temporary') });
    $client->do('drop table perl_temporary');
};

step 'leave', sub {
    our (@kept, $insert, $statement);
    undef $_ for @kept, $insert, $statement;
    $client->do("drop table $TABLE");
    $_->disconnect for $client, $other;
};

exit $failed;
