// What the programs for Go share: steps with a line each, and what to wait for.

package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

var failed bool

func step(name string, work func()) {
	defer func() {
		if why := recover(); why != nil {
			failed = true
			fmt.Printf("FAILED %s: %s\n", name, strings.ReplaceAll(fmt.Sprint(why), "\n", " | "))
			return
		}
		fmt.Println("ok " + name)
	}()
	work()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same(found, expected interface{}) {
	if fmt.Sprintf("%#v", found) != fmt.Sprintf("%#v", expected) {
		panic(fmt.Sprintf("found %#v, expected %#v", found, expected))
	}
}

// until the condition holds, ten seconds at most.
func until(what string, condition func() bool) {
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			panic("no " + what + " within ten seconds")
		}
	}
}

func finish() {
	if failed {
		os.Exit(1)
	}
}
