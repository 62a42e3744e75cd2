// The database behind the tests of MongoDB mode: FerretDB with SQLite, as a library.
//
//	ferretdb LISTEN FOLDER     for example: ferretdb 127.0.0.1:27018 /tmp/data
//
// FerretDB's own command cannot be had by `go install`: it panics at start, since its version.txt is not in the module. Warnings go to
// standard error. It ends on SIGTERM and SIGINT.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: ferretdb LISTEN FOLDER")
	}
	db, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: os.Args[1]},
		Handler:   "sqlite",
		SQLiteURL: "file:" + os.Args[2] + "/",
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		log.Fatal(err)
	}
	until, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := db.Run(until); err != nil {
		log.Fatal(err)
	}
}
