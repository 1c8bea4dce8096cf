package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/transfer"
	"banger/internal/guest/wire"
)

type cpOptions struct {
	user        string
	followLinks bool
	quiet       bool
}

func newCp(a *app) *cobra.Command {
	var opts cpOptions
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC DST",
		Short: "Copy files and directories into a VM, or out of it",
		Long: "Copy a file or a directory with all its content into a running VM, out of it, or from one VM to another.\n" +
			"It needs no network and no program in the VM. NAME:PATH is a path in a VM; a relative one begins in\n" +
			"the home of the user. Write ./a:b for a file of this host whose name has a colon.\n\n" +
			"DST is understood as by `cp -a`:\n" +
			"  SRC                DST               result\n" +
			"  file or directory  new name          DST; the directory around it must exist\n" +
			"  file or directory  directory         DST/NAME, with the name of SRC\n" +
			"  directory/.        directory         the content of SRC is added to DST\n" +
			"  file               file              DST is replaced\n" +
			"  file               new name/         an error, as for all other pairs\n" +
			"A directory that exists keeps its mode and what else it has; files of the same name are replaced.\n\n" +
			"Modes, times, symbolic links, hard links and holes are copied; if SRC itself is a link, what it leads\n" +
			"to. Owners and setuid bits are not copied: the copy belongs to the user in the VM, or to you. Sockets,\n" +
			"named pipes and devices are left out, with a note. Each file, and each new directory, appears when it\n" +
			"is complete; an interrupted copy leaves no part of one.\n\n" +
			"- as SRC is stdin and as DST is stdout, for one file. For a tar archive use\n" +
			"`banger vm exec NAME -- tar -c DIRECTORY`.",
		Example: "  banger vm cp notes.txt calm-otter:\n  banger vm cp calm-otter:site ./backup\n  banger vm cp ./site/. calm-otter:site\n" +
			"  banger vm cp calm-otter:/etc/os-release - >os-release\n  banger vm cp calm-otter:.bashrc spare:",
		Args:              args(2, 2),
		ValidArgsFunction: a.copyEnds,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCp(cmd.Context(), args[0], args[1], opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&opts.user, "user", "u", "", "user in the VM (default root)")
	flags.BoolVarP(&opts.followLinks, "follow-links", "L", false, "copy what symbolic links inside SRC lead to, instead of the links")
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "show no progress")
	flags.BoolP("recursive", "r", true, "copy directories (the default)")
	flags.BoolP("archive", "a", true, "keep modes, times and links (the default)")
	_, _ = flags.MarkHidden("recursive"), flags.MarkHidden("archive")
	return cmd
}

// copyEnd is SRC or DST.
type copyEnd struct {
	ref    string // of a VM; empty for this host
	vm     banger.VM
	path   string
	stream bool // stdin or stdout
}

// endOf reads NAME:PATH, a path of this host, or -.
func endOf(arg string) copyEnd {
	ref, inVM, found := strings.Cut(arg, ":")
	if found && ref != "" && !strings.Contains(ref, "/") {
		return copyEnd{ref: ref, path: inVM}
	}
	return copyEnd{path: arg, stream: arg == "-"}
}

// named returns a path of this end as the user would type it.
func (e copyEnd) named(path string) string {
	if e.ref == "" {
		return path
	}
	return e.vm.Name + ":" + guest.Printable(path)
}

func (a *app) runCp(ctx context.Context, srcArg, dstArg string, opts cpOptions) (err error) {
	src, dst := endOf(srcArg), endOf(dstArg)
	switch {
	case src.ref == "" && dst.ref == "":
		return banger.Invalidf("write NAME:PATH for a path in a VM: banger vm cp notes.txt calm-otter:", "neither %s nor %s is in a VM", srcArg, dstArg)
	case src.ref == "" && src.path == "" || dst.ref == "" && dst.path == "":
		return banger.Invalidf("write . for this directory", "a path is empty")
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	for _, end := range []*copyEnd{&src, &dst} {
		if end.ref == "" {
			continue
		}
		if end.vm, err = svc.ShowVM(ctx, end.ref); err != nil {
			return a.maybeFile(end, err)
		}
	}
	if src.vm.ID != "" && src.vm.ID == dst.vm.ID {
		return banger.Invalidf(fmt.Sprintf("banger vm exec %s -- cp -a %s %s", src.vm.Name, quote(src.path), quote(dst.path)),
			"both are in VM %q", src.vm.Name)
	}
	c := &copying{app: a, svc: svc, src: src, dst: dst, opts: opts, meter: newMeter()}
	return c.run(ctx)
}

// maybeFile adds to an error about a VM that a file of this host has that name.
func (a *app) maybeFile(end *copyEnd, err error) error {
	file := end.ref + ":" + end.path
	if _, missing := os.Lstat(file); banger.KindOf(err) == banger.NotFound && missing == nil {
		return &banger.Error{Kind: banger.NotFound, Why: errors.New(err.Error()), Fix: "write ./" + file + " for the file of this host"}
	}
	return err
}

// copying is one run of the command.
type copying struct {
	app      *app
	svc      service
	src, dst copyEnd
	opts     cpOptions
	meter    *meter
	progress *progress
	left     int // files that were left out
}

func (c *copying) run(ctx context.Context) error {
	c.progress = c.app.newProgress(undone)
	if !c.opts.quiet {
		c.progress.show(c.meter.line)
	}
	flow := transfer.Flow{Moved: c.meter.add}
	var err error
	var open []io.Closer
	if flow.Source, err = c.source(ctx, &open); err == nil {
		flow.Sink, err = c.sink(ctx, &open)
	}
	if err == nil {
		err = flow.Run(ctx)
	}
	for _, files := range open {
		files.Close()
	}
	c.progress.close()
	c.tellLeftOut()
	switch {
	case err != nil && ctx.Err() != nil:
		return &banger.Error{Kind: banger.Canceled, What: "copy " + c.src.named(c.src.path), Why: context.Canceled}
	case err != nil:
		return c.explain(err)
	case !c.opts.quiet && (c.progress.live && c.meter.long() || c.progress.plain):
		fmt.Fprintln(c.app.std.Err, c.meter.summary())
	}
	return nil
}

// open asks the agent in a VM for one end of the copy.
func (c *copying) open(ctx context.Context, end copyEnd, request transfer.Request, open *[]io.Closer) (*guest.Files, error) {
	conn, err := c.svc.DialVM(ctx, string(end.vm.ID), wire.PortSSH)
	if err != nil {
		return nil, err
	}
	request.Path = []byte(end.path)
	files, err := guest.OpenFiles(ctx, conn, end.vm, c.opts.user, request)
	if err != nil {
		conn.Close()
		return nil, err
	}
	*open = append(*open, files)
	return files, nil
}

func (c *copying) source(ctx context.Context, open *[]io.Closer) (func(io.Writer) error, error) {
	if c.src.ref != "" {
		files, err := c.open(ctx, c.src, transfer.Request{Send: true, FollowLinks: c.opts.followLinks}, open)
		if err != nil {
			return nil, err
		}
		return files.Source, nil
	}
	if c.src.stream {
		return func(w io.Writer) error { return transfer.SendStream(w, c.app.std.In) }, nil
	}
	return transfer.Sender{Path: c.src.path, FollowLinks: c.opts.followLinks, Size: c.meter.expect}.Send, nil
}

func (c *copying) sink(ctx context.Context, open *[]io.Closer) (func(io.Reader) error, error) {
	name := transfer.Name(c.src.path)
	if c.src.stream {
		name = ""
	}
	if c.dst.ref != "" {
		files, err := c.open(ctx, c.dst, transfer.Request{Name: []byte(name)}, open)
		if err != nil {
			return nil, err
		}
		return files.Sink(ctx, c.note), nil
	}
	if c.dst.stream {
		return c.toStdout, nil
	}
	return transfer.Receiver{Path: c.dst.path, Name: name, Size: c.meter.expect, Note: c.note}.Receive, nil
}

// toStdout writes a file to stdout. A terminal gets only text and colours.
func (c *copying) toStdout(r io.Reader) error {
	if !c.app.std.OutTTY {
		return transfer.ReceiveStream(c.app.std.Out, r, c.meter.expect)
	}
	c.progress.show(nil)
	terminal := &terminalWriter{to: c.app.std.Out}
	defer terminal.Close()
	return transfer.ReceiveStream(terminal, r, nil)
}

// maxTold is how many files are named that were left out; the others are counted.
const maxTold = 10

func (c *copying) note(path, why string) {
	if c.left++; c.left <= maxTold {
		c.progress.say("note: left out %s: %s", c.src.named(path), guest.Printable(why))
	}
}

func (c *copying) tellLeftOut() {
	if c.left > maxTold {
		fmt.Fprintf(c.app.std.Err, "note: left out %d more\n", c.left-maxTold)
	}
}

// explain turns an error of the copy into one with a fix.
func (c *copying) explain(err error) error {
	f := (*transfer.Failure)(nil)
	if !errors.As(err, &f) {
		return err
	}
	end := c.dst
	if f.AtSource {
		end = c.src
	}
	subject := f.Path
	if subject == "" {
		subject = end.path
	}
	name, why := end.named(subject), f.Why
	if end.ref != "" {
		why = guest.Printable(why)
	}
	e := &banger.Error{Why: fmt.Errorf("%s: %s", name, why), Fix: end.fix(f)}
	switch f.Code {
	case transfer.Missing:
		e.Kind = banger.NotFound
	case transfer.NoParent:
		e.Kind, e.Why = banger.NotFound, fmt.Errorf("there is no directory %s", name)
	case transfer.Exists:
		e.Kind, e.Why = banger.Conflict, fmt.Errorf("%s %s", name, why)
	case transfer.NoFile:
		e.Kind, e.Why = banger.Invalid, fmt.Errorf("%s %s", name, why)
	case transfer.Full:
		e.Kind = banger.Unready
	case transfer.Interrupted, transfer.Foreign:
		e.Why = fmt.Errorf("copy %s to %s: %s", c.src.named(c.src.path), c.dst.named(c.dst.path), why)
	}
	return e
}

// fix returns what to do about a failure at this end.
func (e copyEnd) fix(f *transfer.Failure) string {
	on := ""
	if e.ref != "" {
		on = "banger vm exec " + e.vm.Name + " -- "
	}
	switch f.Code {
	case transfer.Missing:
		return on + "ls -la " + quote(path.Dir(f.Path))
	case transfer.NoParent:
		return on + "mkdir -p " + quote(f.Path)
	case transfer.Exists:
		return "choose another destination, or move that away"
	case transfer.NoFile:
		return e.noFile(f)
	case transfer.Denied:
		return on + "ls -ld " + quote(f.Path)
	case transfer.Full:
		if e.ref != "" {
			return fmt.Sprintf("make room there, or grow a disk: banger vm set %s --disk-size SIZE (of /root) or --overlay-size SIZE", e.vm.Name)
		}
		return "df -h " + quote(path.Dir(f.Path))
	case transfer.Interrupted, transfer.Foreign:
		if e.ref != "" {
			return "banger vm show " + e.vm.Name
		}
	}
	return ""
}

// noFile returns what to do instead where only one file can be copied.
func (e copyEnd) noFile(f *transfer.Failure) string {
	switch {
	case !f.AtSource:
		return "give the name of a file, or - for stdout: banger vm cp NAME:PATH - >FILE"
	case e.ref != "":
		return fmt.Sprintf("banger vm exec %s -- tar -c %s", e.vm.Name, quote(e.path))
	}
	return "give - for stdin: banger vm cp - NAME:PATH <" + quote(f.Path)
}

// quote quotes an argument for a shell, if it needs that.
func quote(arg string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool { return !plain(r) }) < 0 {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// copyEnds completes the names of VMs as the start of NAME:PATH; the shell completes
// the files of this host.
func (a *app) copyEnds(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, _ := a.vmNames(cmd, nil, word)
	var ends []string
	for _, name := range names {
		name, state, _ := strings.Cut(name, "\t")
		if strings.HasPrefix(name+":", word) {
			ends = append(ends, cobra.CompletionWithDesc(name+":", state))
		}
	}
	return ends, cobra.ShellCompDirectiveNoSpace
}
