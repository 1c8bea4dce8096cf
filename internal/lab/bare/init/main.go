// Command init is the whole guest of the bare VM: the first process, which runs a
// program for each line that comes over the serial port, and answers.
package main

import "syscall"

func main() {
	if syscall.Getpid() != 1 {
		return // the program
	}
	say("bare: ready\n")
	line := make([]byte, 64)
	for {
		// The terminal hands over one line at a time.
		if n, err := syscall.Read(0, line); n <= 0 && err != syscall.EINTR {
			say("bare: the serial port ended\n")
			syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
		}
		if err := run(); err != nil {
			say("bare: " + err.Error() + "\n")
			continue
		}
		say("bare: done\n")
	}
}

// run runs this file as another process, to its end.
func run() error {
	pid, err := syscall.ForkExec("/init", []string{"/init"}, &syscall.ProcAttr{})
	if err != nil {
		return err
	}
	for {
		if _, err = syscall.Wait4(pid, nil, 0, nil); err != syscall.EINTR {
			return err
		}
	}
}

func say(text string) { syscall.Write(1, []byte(text)) }
