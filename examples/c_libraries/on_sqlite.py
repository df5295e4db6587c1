"""SQLite: one configuration for the process, before ``sqlite3_initialize``. A refused statement ends with
SQLITE_NOMEM and is undone; the connection goes on.

It is the process's own SQLite: where Python's ``sqlite3`` module was imported before, and is linked with the same
library, it is too late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common import Binding, Denied, Library, Wrong, check

BINDING = Binding(
    name="sqlite",
    package="libsqlite3-dev",
    header="sqlite3.h",
    library="sqlite3",
    cdef="""
        #define SQLITE_OK ...
        #define SQLITE_ROW ...
        #define SQLITE_DONE ...
        #define SQLITE_NOMEM ...
        #define SQLITE_MISUSE ...
        #define SQLITE_CONFIG_MALLOC ...
        #define SQLITE_CONFIG_GETMALLOC ...
        #define SQLITE_CONFIG_LOOKASIDE ...
        typedef struct sqlite3_mem_methods { ...; } sqlite3_mem_methods;
        typedef struct sqlite3 sqlite3;
        typedef struct sqlite3_stmt sqlite3_stmt;
        typedef long long sqlite3_int64;
        int sqlite3_config(int, ...);
        int sqlite3_initialize(void);
        int sqlite3_shutdown(void);
        sqlite3_int64 sqlite3_memory_used(void);
        int sqlite3_open(const char *name, sqlite3 **);
        int sqlite3_close(sqlite3 *);
        int sqlite3_get_autocommit(sqlite3 *);
        const char *sqlite3_errmsg(sqlite3 *);
        int sqlite3_prepare_v2(sqlite3 *, const char *sql, int size, sqlite3_stmt **, const char **tail);
        int sqlite3_bind_int64(sqlite3_stmt *, int index, sqlite3_int64);
        int sqlite3_step(sqlite3_stmt *);
        int sqlite3_reset(sqlite3_stmt *);
        int sqlite3_finalize(sqlite3_stmt *);
        sqlite3_int64 sqlite3_column_int64(sqlite3_stmt *, int column);
    """,
)

CREATE = (
    "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_value ON item (value, name)",
)
INSERT = "INSERT INTO item VALUES (?1, 'item ' || ?1, ?1 * 7919 % 1000)"
QUERY = "SELECT count(*), coalesce(sum(id), 0) FROM item INDEXED BY by_value WHERE value < ?1"


class SQLite(Library):
    name = "sqlite"
    binding = BINDING
    limit = 2 << 20
    little, fits, too_much = 20, 15_000, 150_000
    no_memory = "SQLITE_NOMEM"

    def __init__(self, port: Any) -> None:
        super().__init__(port)
        self.rows = 0
        self.database = self.ffi.NULL
        self.before = self.ffi.new("sqlite3_mem_methods *")
        methods = self.ffi.cast("sqlite3_mem_methods *", port.sqlite)
        self.configure(self.lib.SQLITE_CONFIG_GETMALLOC, self.before)
        self.configure(self.lib.SQLITE_CONFIG_MALLOC, methods)
        # With lookaside each connection takes one block and deals small ones out of it. Without, each that SQLite
        # asks for is one of the port's, so the port counts them, and can refuse them, one by one.
        none = self.ffi.cast("int", 0)
        self.configure(self.lib.SQLITE_CONFIG_LOOKASIDE, none, none)
        try:
            self.judge(self.lib.sqlite3_initialize())
            database = self.ffi.new("sqlite3 **")
            code = self.lib.sqlite3_open(b":memory:", database)
            self.database = database[0]  # to be closed also where it could not be opened
            self.judge(code)
        except Denied:
            self.close()
            raise

    def configure(self, *option: Any) -> None:
        code = self.lib.sqlite3_config(*option)
        if code == self.lib.SQLITE_MISUSE:
            raise Wrong(
                "sqlite: SQLite is in use in this process, so it is too late to configure its memory; "
                "do that before anything imports Python's sqlite3 module"
            )
        check(code == self.lib.SQLITE_OK, f"sqlite: sqlite3_config: {code}")

    def work(self, amount: int) -> str:
        for sql in CREATE:
            self.run(sql)
        self.run("BEGIN")
        try:
            with self.prepared(INSERT) as insert:
                for i in range(self.rows + 1, amount + 1):
                    self.judge(self.lib.sqlite3_bind_int64(insert, 1, i))
                    self.judge(self.lib.sqlite3_step(insert))
                    self.judge(self.lib.sqlite3_reset(insert))
            self.run("COMMIT")
        except Denied:
            if not self.lib.sqlite3_get_autocommit(self.database):  # SQLite may have rolled back by itself
                self.run("ROLLBACK")
            raise
        self.rows = amount
        self.answer()
        return f"{amount:,} rows, indexed"

    def answer(self) -> None:
        if self.rows:
            ids = [i for i in range(1, self.rows + 1) if i * 7919 % 1000 < 250]
            check(self.query(QUERY, 250) == (len(ids), sum(ids)), "sqlite: the query's result is not right")
        else:
            check(self.query("SELECT ?1, ?1 + 2", 40) == (40, 42), "sqlite: a small query's result is not right")
        has, taken = self.lib.sqlite3_memory_used(), self.taken()
        check(has == taken, f"sqlite: counts {has} bytes, and the port {taken}")

    def run(self, sql: str) -> None:
        with self.prepared(sql) as statement:
            self.judge(self.lib.sqlite3_step(statement))

    def query(self, sql: str, argument: int) -> tuple[int, int]:
        with self.prepared(sql) as statement:
            self.judge(self.lib.sqlite3_bind_int64(statement, 1, argument))
            self.judge(self.lib.sqlite3_step(statement))
            first, second = (self.lib.sqlite3_column_int64(statement, column) for column in (0, 1))
            return first, second

    @contextmanager
    def prepared(self, sql: str) -> Iterator[Any]:
        statement = self.ffi.new("sqlite3_stmt **")
        text = sql.encode()
        self.judge(self.lib.sqlite3_prepare_v2(self.database, text, len(text), statement, self.ffi.NULL))
        try:
            yield statement[0]
        finally:
            self.lib.sqlite3_finalize(statement[0])

    def judge(self, code: int) -> None:
        if code == self.lib.SQLITE_NOMEM:
            raise Denied(self.no_memory)
        if code not in (self.lib.SQLITE_OK, self.lib.SQLITE_ROW, self.lib.SQLITE_DONE):
            raise Wrong(f"sqlite: {code}: {self.ffi.string(self.lib.sqlite3_errmsg(self.database)).decode()}")

    def close(self) -> None:
        check(self.lib.sqlite3_close(self.database) == self.lib.SQLITE_OK, "sqlite: the connection does not close")
        check(self.lib.sqlite3_shutdown() == self.lib.SQLITE_OK, "sqlite: does not shut down")
        self.configure(self.lib.SQLITE_CONFIG_MALLOC, self.before)  # the port ends; the process's SQLite does not
