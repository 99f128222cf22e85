<?php
// A whole Laravel application, for PHP's own server; its middleware is the around_action of docs/integrations/rails.md.
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Contracts\Http\Kernel;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Database\QueryException;
use Illuminate\Foundation\Application;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Route;

error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);
require 'Illuminate/autoload.php';

class Flight extends Model
{
    protected $table = 'app.flights';
}

class Order extends Model
{
    protected $table = 'app.orders';
    public $timestamps = false;
    protected $guarded = [];
}

class AsUser
{
    public function handle(Request $request, Closure $next)
    {
        return DB::transaction(function () use ($request, $next) {
            DB::select("SELECT set_config('bodata.impersonation_token', ?, true)", [(string) $request->bearerToken()]);
            $response = $next($request);
            // Laravel has made an answer of it already: the transaction is to fail.
            throw_if(isset($response->exception), $response->exception);
            return $response;
        });
    }
}

class Handler extends Illuminate\Foundation\Exceptions\Handler
{
    public function report(Throwable $error)
    {
    }

    public function render($request, Throwable $error)
    {
        $state = $error instanceof QueryException ? $error->errorInfo[0] : get_class($error) . ': ' . $error->getMessage();
        return response()->json(['error' => $state], $state === '28000' ? 401 : 500);
    }
}

const FAILS = 'SELECT 1 / (count(*) - count(*)) FROM app.orders';

// Creates, changes, fails in a nested transaction, leaves things behind.
function work(): array
{
    $carriers = Order::where('id', '>', 0)->pluck('carrier');
    $order = Order::create(['carrier' => $carriers[0], 'note' => 'mine']);
    $order->update(['note' => 'changed']);
    try {
        DB::transaction(function () {
            Order::query()->delete();
            DB::select(FAILS);
        });
    } catch (QueryException $error) {
        throw_if(Order::find($order->id)->note !== 'changed', $error);
    }
    $order->delete();
    $left = DB::selectOne("SELECT current_setting('work_mem') AS value")->value;
    DB::select("SELECT set_config('work_mem', '5MB', false)");
    DB::statement('CREATE TEMP TABLE left_behind (a int)');
    return ['user' => DB::selectOne('SELECT current_user AS value')->value, 'orders' => $carriers->countBy(), 'left' => $left];
}

$app = new Application(getenv('HOME'));
$app->singleton(Kernel::class, Illuminate\Foundation\Http\Kernel::class);
$app->singleton(ExceptionHandler::class, Handler::class);
$app->booted(function () {
    Route::middleware(AsUser::class)->group(function () {
        Route::get('/flights', fn () => Flight::groupBy('carrier')->selectRaw('carrier, count(*) AS flights')->pluck('flights', 'carrier'));
        Route::get('/work', fn () => work());
        Route::get('/fail', fn () => DB::select(FAILS));
        Route::get('/slow', function () {
            DB::statement("SET LOCAL statement_timeout = '50ms'");
            DB::select('SELECT pg_sleep(20)');
        });
    });
});
$kernel = $app->make(Kernel::class);
$response = $kernel->handle($request = Request::capture());
$response->send();
$kernel->terminate($request, $response);
