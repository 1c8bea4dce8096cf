package vm

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strconv"
	"strings"
	"time"

	"banger"
	"banger/internal/hostcmd"
)

var adjectives = strings.Fields(`able amber ample azure balmy bold brave breezy bright brisk calm candid cheery chief civic clear clever cosy crisp
	curious dapper daring deft dewy eager early earnest easy elder epic equal fair famed fancy fast fine firm fleet fond frank free fresh frosty
	full gentle giddy glad golden good grand great green handy happy hardy hasty hearty honest humble ideal jolly jovial keen kind large lively
	loyal lucid lucky lunar major mellow merry mighty mild modest neat nimble noble normal novel olive open patient peppy placid plain plucky
	polite prime proper proud quick quiet rapid ready regal robust rosy round royal rustic sage sandy serene sharp shiny silent silver simple
	sleek smart smooth snowy social solar solid sonic sound spry stable steady stellar still stoic sturdy subtle sunny super sure swift tame
	tender tidy timely tiny topaz tranquil true trusty upbeat urban valid vast velvet vivid warm wary wise witty woven young zesty`)

var animals = strings.Fields(`adder alpaca ant ape auk badger bat bear beaver bee beetle bison boar bobcat bunny camel caribou carp cat cheetah
	cicada clam cobra cod colt condor coral cougar cow coyote crab crane cricket crow cub deer dingo dog dolphin donkey dove drake duck eagle
	eel egret elk emu ermine falcon fawn ferret finch firefly fish foal fowl fox frog gannet gazelle gecko gibbon giraffe gnu goat goose gopher
	grouse gull hamster hare hawk hen heron hippo hornet horse hound hyena ibex ibis iguana jackal jaguar jay kestrel kid kite kitten koala koi
	krill lamb lark lemur leopard lion lizard llama lobster lynx macaw mako mammoth manatee marmot marten mink minnow mole moose moth mouse mule
	newt ocelot octopus okapi orca oriole osprey otter owl ox oyster panda panther parrot pelican perch pigeon pike plover pony puffin puma quail
	rabbit raccoon ram raven ray robin rook salmon seal shark sheep shrew skunk sloth snail sparrow squid stag starling stoat stork swan tapir
	tern tiger toad trout tuna turkey turtle viper vole walrus wasp weasel whale wolf wombat wren yak zebra`)

// newName returns a generated name, or the output of the program that the user
// configured for that.
func (v *VMs) newName(ctx context.Context) (string, error) {
	program := v.Config.NamegenPath
	if program == "" {
		return pick(adjectives) + "-" + pick(animals), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := v.Run.Run(ctx, hostcmd.Cmd{Argv: []string{program}})
	if err != nil {
		return "", fmt.Errorf("run namegen_path: %w", err)
	}
	name := strings.TrimSpace(string(out))
	if err := banger.CheckName(name); err != nil {
		return "", fmt.Errorf("namegen_path %s: %w", program, err)
	}
	return name, nil
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		panic(err) // crypto/rand does not fail on Linux
	}
	return words[n.Int64()]
}

// hostMemory returns the size of the host's memory.
func hostMemory() (banger.Size, error) {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return banger.Size(kib) * banger.KiB, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}
